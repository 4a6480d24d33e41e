"""Memory for what is on its way to the server: so much and no more, whatever is sent."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from enginepress.stores.s3.digests import Body

_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1024 * 1024


class Buffers:
    """Buffers for parts, made when they are first needed, used again and again.

    Args:
        most: buffers at a time.
        size: of each.
    """

    def __init__(self, most: int, size: int) -> None:
        self._free: list[Body] = []
        self._size = size
        self._left = threading.BoundedSemaphore(most)
        _give_back_at_once()

    def take(self) -> Body:
        self._left.acquire()
        try:
            return self._free.pop()
        except IndexError:
            return Body(self._size)

    def give(self, buffer: Body) -> None:
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


def _give_back_at_once() -> None:
    """What is large goes back to the kernel when it is freed. glibc would keep it, for each thread apart, once it has seen such
    sizes come and go: three times what is in use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
