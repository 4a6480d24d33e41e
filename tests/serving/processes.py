"""What is left of a server: processes and shared memory, found by what only our servers have in their names."""

from __future__ import annotations

import re
import time
from pathlib import Path

from enginepress.process import process_start
from enginepress.serving.shared_memory import FOLDER, processes_of


def prefix_in(log: Path) -> str:
    """The shared memory prefix of the last server that was started with this log."""
    return str(re.findall(r"shm-region-prefix-name=(\S+)", log.read_text())[-1])


def leftovers(log: Path) -> list[str]:
    """Processes and regions of the server that wrote this log."""
    prefix = prefix_in(log)
    regions = [str(path) for path in FOLDER.glob(f"{prefix}*")]
    return [f"process {pid}" for pid in processes_of(prefix)] + regions


def gone_within(log: Path, seconds: float) -> float:
    """How long it took until nothing was left."""
    began = time.monotonic()
    while left := leftovers(log):
        if time.monotonic() - began > seconds:
            raise AssertionError(f"after {seconds} s there is still {left}")
        time.sleep(0.05)
    return time.monotonic() - began


def is_running(pid: int) -> bool:
    return process_start(pid) is not None
