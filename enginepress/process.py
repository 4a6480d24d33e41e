"""Child processes that are logged, and that die with us.

A step starts tools (a model builder, a Triton server) and may itself be killed at any moment. Nothing that it started may
go on writing, so each child asks the kernel for SIGKILL when its parent dies. A step is in turn a grandchild of the
process that runs the pipeline (a shell stands between them), so it watches that process by a pidfd: `die_with`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_logged(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Runs a tool to its end; its output and errors are kept in `log`, line by line as they come.

    Args:
        argv: the command and its arguments; no shell.
        log: file to write; its folder exists.
        env: the whole environment of the child, or None for ours.
        on_line: called with each line, without its newline.

    Returns:
        The exit status; negative for the signal that ended it.
    """
    with open(log, "ab") as sink:
        sink.write(f"$ {' '.join(argv)}\n".encode())
        sink.flush()
        with subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            preexec_fn=die_with_parent,
        ) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    sink.write(line)
                    sink.flush()
                    if on_line is not None:
                        on_line(line.decode(errors="replace").rstrip("\n"))
            except BaseException:
                child.kill()
                raise
            return child.wait()


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            return "".join(deque(stream, maxlen=count)).strip()
    except FileNotFoundError:
        return ""


def process_start(pid: int) -> str | None:
    """When the process started, in kernel ticks, or None if there is none. Tells a process from a later one of the same pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Whether the process that left its `kernel`, `pid` and `start` somewhere has surely ended.

    Of another kernel or pid namespace nobody here can tell. Nor of another user's process where `/proc` hides those (hidepid,
    which shared machines like to have).
    """
    pid, start = owner.get("pid"), owner.get("start")
    if owner.get("kernel") != kernel() or type(pid) is not int:
        return False
    if (found := process_start(pid)) is not None or pid <= 0:
        return found != start
    return not _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Whether a process runs of which `/proc` shows nothing."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        # A process that has ended and waits for its parent may not be signalled either, but is seen.
        return not os.access(f"/proc/{pid}/stat", os.R_OK)
    except OSError:
        pass
    return False


@functools.cache
def kernel() -> str:
    """Names this running kernel and pid namespace: within it, a pid and its start time name one process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def identity() -> str:
    """This process as `pid:start`, for `die_with`."""
    return f"{os.getpid()}:{process_start(os.getpid())}"


def die_with(owner: str) -> None:
    """Ends this process at once when the process `owner` (an `identity`) is gone. Returns immediately.

    Its own children die too, if they were started with `die_with_parent`.
    """
    pid, start = owner.split(":")
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        os._exit(137)
    if process_start(int(pid)) != start:
        os._exit(137)

    def watch() -> None:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while not poller.poll():
            pass
        os._exit(137)

    threading.Thread(target=watch, name="die-with-owner", daemon=True).start()
