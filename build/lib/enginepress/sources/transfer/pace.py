"""How fast: a cap on the bandwidth, pauses between attempts, and streams that merely trickle."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, counted anew whenever bytes have arrived."""

PROGRESS_BYTES = 4096
"""An attempt that brings less does not count as one that helped: a server that closes after each byte is not asked for ever."""

STALL_SECONDS = 30.0
STALL_BYTES = 32 * 1024
"""A stream that brings less than this in that time is given up and asked for anew."""


def pause_before(attempt: int, pauses: Sequence[float], wait: float | None) -> float:
    """Seconds before the attempt of this number, from 0. Spread, so that streams that broke together do not return together."""
    return max(pauses[attempt] * random.uniform(0.75, 1.25), wait or 0)


class Bandwidth:
    """A cap shared by all streams of a download.

    Args:
        bytes_per_second: or None for no cap.
        sleep: waits; returns early if the download is over.
    """

    def __init__(self, bytes_per_second: float | None, sleep: Callable[[float], object] = time.sleep) -> None:
        self._rate = bytes_per_second
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def spend(self, count: int) -> None:
        """Returns when these bytes fit under the cap."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            wait = max(self._free_at, now) - now
            self._free_at = max(self._free_at, now) + count / self._rate
        if wait > 0:
            self._sleep(wait)


class Trickle:
    """Sees a stream that sends too little to ever end, though enough to keep a connection's time-out from passing."""

    def __init__(self, seconds: float = STALL_SECONDS, least: int = STALL_BYTES) -> None:
        self._seconds = seconds
        self._least = least
        self._since = time.monotonic()
        self._count = 0

    def is_stalled(self, count: int) -> bool:
        """Whether the last while brought too little. `count`: bytes that have just arrived."""
        self._count += count
        now = time.monotonic()
        if now - self._since < self._seconds:
            return False
        stalled = self._count < self._least
        self._since, self._count = now, 0
        return stalled
