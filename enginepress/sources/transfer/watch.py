"""Deadlines for what a socket's own time-out does not end: that begins anew with each byte that arrives.

One thread watches all connections of a client; it lives only while there is something to watch. When a deadline passes, the
connection is shut down, and whoever waits for it meets its end at once.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator


class Watch:
    """The deadlines of one client. May be used by any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, connection: socket.socket, seconds: float) -> Iterator[None]:
        """What is done inside fails with TimeoutError when it takes longer, whatever the server sends meanwhile."""
        number = next(self._numbers)
        deadline = time.monotonic() + seconds
        with self._changed:
            self._watched[number] = (deadline, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        except Exception:
            if self._forget(number):
                raise
            raise TimeoutError from None
        # A connection that is shut down looks like one that ended, and what came of an answer like all of it.
        if not self._forget(number):
            raise TimeoutError

    def _forget(self, number: int) -> bool:
        """Whether the deadline had not passed."""
        with self._changed:
            return self._watched.pop(number, None) is not None

    def _run(self) -> None:
        with self._changed:
            while self._watched:
                now = time.monotonic()
                for number, (deadline, connection) in list(self._watched.items()):
                    if deadline <= now:
                        del self._watched[number]
                        shut_down(connection)
                nearest = min((deadline for deadline, _ in self._watched.values()), default=now)
                if not self._changed.wait(max(nearest - now, 0.05)) and not self._watched:
                    break
            self._thread = None


def shut_down(connection: socket.socket) -> None:
    """Whoever waits for it meets its end at once. Of the plain socket also under TLS: another thread is reading through it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
