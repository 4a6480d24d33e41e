"""How many threads compute: one for each processor core that this process may use.

The inference library takes half of the machine's processors, at most 16, whatever the process may use of them. On a machine
without hyperthreads that leaves half of it idle; in a container that is limited to two processors of a hundred it starts
sixteen threads, which take turns on the two and wait for each other.

Read are, with whatever is missing left out:

    the processors that this process may run on (its affinity: cpusets, `taskset`, the scheduler's CPU manager)
    /sys/devices/system/cpu/cpu<N>/topology/thread_siblings_list     hyperthreads of one core count once
    /sys/fs/cgroup/**/cpu.max, cpu.cfs_quota_us                      the limit of a container (`resources.limits.cpu`)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MOST = 16
"""More threads than this wait for memory and for each other: the inference library's own bound."""


def usable_cores(*, processors: Iterable[int] | None = None, root: Path = Path("/")) -> int:
    """The number of threads to compute with, from 1 to 16.

    Args:
        processors: numbers of the processors that may be used; None takes this process's own.
        root: where /proc and /sys are found.
    """
    allowed = os.sched_getaffinity(0) if processors is None else processors
    cores = {_core(root, processor) for processor in allowed}
    return max(1, min([len(cores), _MOST, *_quotas(root)]))


def _core(root: Path, processor: int) -> str:
    """What names the core of a processor: the list of the processors that share it."""
    return _text(root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list") or str(processor)


def _quotas(root: Path) -> Iterator[int]:
    """The limits, in whole processors, of the control groups that this process is in, and of those above them."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        group = base / path.lstrip("/")
        # Within a container the path is often the host's, which does not exist here: then the mount itself is the group.
        for folder in [group, *group.parents]:
            quota, period = _quota(folder, versioned=not controllers)
            if quota > 0 and period > 0:
                yield int(quota // period)
            if folder == base:
                break


def _quota(folder: Path, *, versioned: bool) -> tuple[float, float]:
    """Microseconds of processor time in each period, and the period; zeros without a limit."""
    if versioned:
        words = _text(folder / "cpu.max").split()
    else:
        words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no such files
        return 0.0, 0.0
    return quota, period


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
