"""Whole processes, timed from outside, taking turns so that a machine that slows down slows all of them."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Times:
    """Seconds of one command, in the order in which they were measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.2f} s ({min(self.seconds):.2f} to {max(self.seconds):.2f})"


def in_turns(commands: Mapping[str, Sequence[str]], *, rounds: int, env: Mapping[str, str] | None = None) -> dict[str, Times]:
    """Each command `rounds` times after one that is not counted: A B C, C B A, A B C, …

    Raises:
        RuntimeError: if a command fails.
    """
    found: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in sorted(commands, reverse=bool(number % 2)):
            start = time.perf_counter()
            done = subprocess.run(commands[name], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
            if number:
                found[name].append(seconds)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def peak_mib() -> float:
    """The most memory that this program had. What getrusage tells begins with the memory of whoever started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
