"""How far a long transfer is: how much of how much, how fast lately, how long still."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from enginepress.quantities import duration_text, size_text

WINDOW_SECONDS = 15.0
"""The rate is that of the last so many seconds: what a disk or network does now, not since the beginning."""


class Meter:
    """Adds up what has arrived of several files at once. Not for several threads.

    Args:
        total: bytes of all files.
        clock: seconds, monotonic.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._files: dict[str, int] = {}
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])

    def note(self, path: str, done: int) -> None:
        """`done` bytes of a file are there."""
        self._done += done - self._files.get(path, 0)
        self._files[path] = done
        now = self._clock()
        self._marks.append((now, self._done))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_SECONDS:
            self._marks.popleft()

    def __str__(self) -> str:
        text = f"{size_text(self._done)} of {size_text(self._total)}"
        (before, had), (now, has) = self._marks[0], self._marks[-1]
        if now - before < 1 or has <= had:
            return text
        rate = (has - had) / (now - before)
        return f"{text}, {size_text(rate)}/s, {duration_text((self._total - self._done) / rate)} left"
