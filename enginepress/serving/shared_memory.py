"""The shared memory of Triton's Python backend, and the stub processes that hold it.

Triton starts one stub process for each instance of a Python model and talks to it through /dev/shm/<prefix><uuid>. Stopped
cleanly, it removes both. Killed, its stubs notice by themselves within about three seconds and remove the region; a stub that
was killed leaves it. A stub that was just then waiting for its server, which it does without letting go of Python's interpreter,
never notices (seen with Triton 2.51): it stays, with its model, until the next server of ours ends it.

Each of our servers has a prefix of its own, which also stands on the command line of its stubs:

    enginepress_<pid namespace>_<pid>_<start of that process>_<random>_

so what belongs to a server can be found, and a later server can sweep what dead ones left. Its scratch folder has that name, too.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from enginepress.process import process_start

FOLDER = Path("/dev/shm")
KILLED_S = 5.0
"""Within this a killed process is gone, even one with a large model."""

_NAME = re.compile(r"enginepress_(?P<space>\d+)_(?P<pid>\d+)_(?P<start>\d+)_[0-9a-f]+_")


def new_prefix() -> str:
    """A prefix that no other server has, and that names this process."""
    me = os.getpid()
    return f"enginepress_{_pid_namespace()}_{me}_{process_start(me)}_{uuid.uuid4().hex[:8]}_"


def processes_of(prefix: str) -> dict[int, str]:
    """Pid -> start of every process that has the prefix on its command line: a server and its stubs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        start = process_start(int(entry.name)) if prefix.encode() in command else None
        if start is not None:
            found[int(entry.name)] = start
    return found


def end_processes(prefix: str, *, patience_s: float, most_s: float = math.inf) -> bool:
    """Waits until no process with this prefix is left; kills what is still there after `patience_s`.

    Returns:
        Whether nothing is left; False only once `most_s` have passed.
    """
    began = time.monotonic()
    while left := processes_of(prefix):
        waited = time.monotonic() - began
        if waited > most_s:
            return False
        if waited >= patience_s:
            for pid, start in left.items():
                if process_start(pid) == start:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True


def remove_regions(prefix: str) -> None:
    for region in FOLDER.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def sweep_leftovers() -> None:
    """Ends stubs and removes regions and scratch folders whose owners are gone. Those of another pid namespace are not ours to
    judge; a stub of another user stays, and so does what belongs to it."""
    for left in (*FOLDER.glob("enginepress_*"), *Path(tempfile.gettempdir()).glob("enginepress_*")):
        match = _NAME.match(left.name)
        if match is None or match["space"] != _pid_namespace() or process_start(int(match["pid"])) == match["start"]:
            continue
        if not end_processes(match[0], patience_s=0, most_s=KILLED_S):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            try:
                left.unlink(missing_ok=True)
            except PermissionError:
                pass


def _pid_namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
