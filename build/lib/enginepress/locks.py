"""Locks on shared volumes: a small file that says who holds it, and whose heartbeat others watch.

    locks/<name>.json    {"owner": "…", "host": "…", "kernel": "…", "pid": 12, "start": "993", "beat": 41, "about": "run of x"}

No flock (it hangs or lies on NFS) and no synchronised clocks: a holder raises `beat` every few seconds, and an observer
takes over when it has not seen it move for `STALE_SECONDS` on its own monotonic clock. On the same kernel and pid namespace
a dead holder is seen at once.

A lock saves double work; it does not guard correctness. Every output is written apart and renamed into place whole, so
two holders by accident cost time and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from enginepress.errors import LockedError, WorkspaceError
from enginepress.files import explain_os_error
from enginepress.process import kernel, process_start

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class Lock:
    """A held lock is a context manager; entering waits (`wait=True`) or raises LockedError.

    Args:
        path: the lock file; its folder is made.
        about: what is being done under it, for the people who wait.
        wait: False to refuse instead of waiting.
        on_wait: called once with the holder's description before waiting starts.
    """

    def __init__(self, path: Path, *, about: str, wait: bool = True, on_wait: Callable[[str], None] | None = None) -> None:
        self.path = path
        self.about = about
        self.wait = wait
        self.on_wait = on_wait
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._beat = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        seen: tuple[Any, float] | None = None
        told = False
        while not self._try_take():
            holder = self._read()
            if holder is None:
                continue
            now = time.monotonic()
            if seen is None or seen[0] != (holder.get("owner"), holder.get("beat")):
                seen = ((holder.get("owner"), holder.get("beat")), now)
            if self._is_dead(holder) or now - seen[1] > STALE_SECONDS:
                self._break(holder)
                continue
            if not self.wait:
                raise LockedError(
                    f"is held by {describe(holder)}",
                    where=str(self.path),
                    fix="wait until it has finished; a holder that has died is noticed by itself",
                )
            if not told and self.on_wait is not None:
                self.on_wait(describe(holder))
                told = True
            time.sleep(0.2)
        self._thread = threading.Thread(target=self._keep_beating, name=f"lock {self.path.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def forget_the_dead(self) -> None:
        """Removes what a killed holder left, for callers that find nothing to do. It disturbs nobody else's lock."""
        holder = self._read()
        if holder and self._is_dead(holder):
            with contextlib.suppress(OSError):  # on a volume that is read-only, for example
                self._break(holder)

    def _content(self) -> str:
        me = os.getpid()
        return json.dumps(
            {
                "owner": self._id,
                "host": socket.gethostname(),
                "kernel": kernel(),
                "pid": me,
                "start": process_start(me),
                "beat": self._beat,
                "about": self.about,
            }
        )

    def _try_take(self) -> bool:
        """A hard link onto a free name is atomic on every file system that has links, NFS included.

        Over NFS the answer to a link that was made may be lost, and the repeated request then says that the name is taken: by
        ourselves. Where there are no links (SMB, some FUSE mounts), a file that only one can create does as well.
        """
        partial = self.path.with_name(f".{self.path.name}.{self._id}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(self._content())
            try:
                os.link(partial, self.path)
            except FileExistsError:
                return self._is_mine()
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                return self._create()
        except OSError as error:
            raise explain_os_error(error, "taking a lock", WorkspaceError, where=str(self.path)) from None
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _create(self) -> bool:
        """Without hard links. Whoever reads before the content is there sees an unknown holder, and waits."""
        try:
            with open(self.path, "x") as stream:
                stream.write(self._content())
        except FileExistsError:
            return False
        return True

    def _is_mine(self) -> bool:
        holder = self._read()
        return holder is not None and holder.get("owner") == self._id

    def _read(self) -> dict[str, Any] | None:
        """The holder; None if there is none, empty if nobody can tell."""
        try:
            data = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # over NFS, a file that was replaced while it was read is a stale handle
            return {}
        return data if isinstance(data, dict) else {}

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        return holder.get("kernel") == kernel() and process_start(int(holder.get("pid") or 0)) != holder.get("start")

    def _break(self, holder: dict[str, Any]) -> None:
        """Moves a dead holder's file aside, unless somebody else was faster."""
        aside = self.path.with_name(f".{self.path.name}.dead-{self._id}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            taken = json.loads(aside.read_text()).get("owner")
        except json.JSONDecodeError:
            taken = None
        if taken != holder.get("owner"):
            try:
                os.link(aside, self.path)
            except FileExistsError:
                pass
        aside.unlink(missing_ok=True)

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            if not self._is_mine():
                return  # somebody took over while this machine was asleep
            self._beat += 1
            partial = self.path.with_name(f".{self.path.name}.{self._id}")
            try:
                partial.write_text(self._content())
                os.replace(partial, self.path)
            except OSError:
                partial.unlink(missing_ok=True)


def left_by_the_dead(path: Path) -> bool:
    """Whether a lock file, or the temporary one of a lock, belongs to a process of this kernel that is gone."""
    try:
        holder = json.loads(path.read_text())
        return bool(holder["kernel"] == kernel() and process_start(int(holder["pid"])) != holder["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def describe(holder: dict[str, Any]) -> str:
    """The holder of a lock in words."""
    if not holder:
        return "an unknown process"
    return f"{holder.get('about')} (process {holder.get('pid')} on {holder.get('host')})"
