"""The system calls with which a process changes a store, as strace sees them; and a process killed at one of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHANGING = (
    *("mkdir", "mkdirat", "openat", "write", "pwrite64", "writev", "ftruncate", "fsync", "fdatasync", "rename", "renameat"),
    *("renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "fchmod", "fchmodat", "chmod"),
    *("utimensat", "ioctl", "sync_file_range", "copy_file_range", "sendfile"),
)
MOVING = ("read", "lseek")
"""Change where the next write goes."""

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)")
NEEDED = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (Debian: apt install strace)")


@dataclass(frozen=True)
class Call:
    """One system call.

    Attributes:
        ordinal: it is the process's so many-th of this name.
        arguments: as strace prints them, file descriptors with their paths.
        result: -1 if it failed.
    """

    name: str
    ordinal: int
    arguments: str
    result: int

    def __str__(self) -> str:
        return f"{self.name} {self.ordinal}: {self.arguments[:150]}"


def record_calls(arguments: list[str], store: Path, log: Path) -> list[Call]:
    """Runs `tests.stores.parts` to its end; its calls that are about the store, in order, those with an ordinal included that
    change nothing.

    Raises:
        AssertionError: if it fails, with what it said.
    """
    traced = ["-y", "-s", "200000", "-e", f"trace={','.join((*CHANGING, *MOVING))}", "-o", str(log)]
    done = _strace(traced, arguments)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    found, counts = [], dict.fromkeys((*CHANGING, *MOVING), 0)
    for line in log.read_text(errors="surrogateescape").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in counts:
            continue
        counts[match[1]] += 1
        if str(store) in match[2]:
            found.append(Call(match[1], counts[match[1]], match[2], int(match[3]) if match[3] != "?" else 0))
    return found


def changing(calls: list[Call]) -> list[Call]:
    """Those at which a kill can make a difference."""
    return [
        call
        for call in calls
        if call.name not in MOVING
        and not (call.name == "openat" and "O_CREAT" not in call.arguments)
        and not (call.name == "ioctl" and "FICLONE" not in call.arguments)
    ]


def killed_at(call: Call, arguments: list[str]) -> None:
    """Runs the same again, killed with SIGKILL as it enters that call.

    Raises:
        AssertionError: if it was not killed.
    """
    traced = ["-e", f"trace={call.name}", "-e", f"inject={call.name}:signal=KILL:when={call.ordinal}", "-o", os.devnull]
    done = _strace(traced, arguments)
    assert done.returncode in (-9, 137), f"was not killed at {call}: {done.returncode}, {done.stderr}"


def _strace(traced: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.stores.parts", *arguments]
    return subprocess.run(["strace", *traced, *program], env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    """In which every run makes the same calls."""
    return {**os.environ, "ONE_THREAD": "1", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
