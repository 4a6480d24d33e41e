"""Memory for what is on its way to the server: so much and no more, whatever is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Buffers:
    """Buffers for parts, made when they are first needed, used again and again.

    Args:
        most: buffers at a time.
        size: of each.
    """

    def __init__(self, most: int, size: int) -> None:
        self._free: list[bytearray] = []
        self._size = size
        self._left = threading.BoundedSemaphore(most)

    def take(self) -> bytearray:
        self._left.acquire()
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(self._size)

    def give(self, buffer: bytearray) -> None:
        """One that was cut to the last part of a file is not used again."""
        if len(buffer) == self._size:
            self._free.append(buffer)
        self._left.release()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """For a file that is read whole: it takes a buffer's place if it is not small beside one."""
        if size * 16 <= self._size:
            yield
            return
        with self._left:
            with suppress(IndexError):
                self._free.pop()  # its memory, too
            yield
