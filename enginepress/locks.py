"""Locks on shared volumes: a small file that says who holds it, and whose heartbeat others watch.

    locks/<name>.json    {"owner": "…", "host": "…", "kernel": "…", "pid": 12, "start": "993", "beat": 41, "about": "run of x"}

No flock (it hangs or lies on NFS) and no synchronised clocks: a holder raises `beat` every few seconds, and an observer
takes over when it has watched it stand still for `STALE_SECONDS` on its own monotonic clock. On the same kernel and pid
namespace a dead holder is seen at once.

A lock saves double work; it does not guard correctness. Every output is written apart and renamed into place whole, so
two holders by accident cost time and nothing else.
"""

from __future__ import annotations

import contextlib
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
from enginepress.files import NO_LINKS, explain_os_error
from enginepress.process import is_gone, kernel, process_start

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_HANDOVER_SECONDS = 0.02


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
        stillness = _Stillness()
        told = False
        while True:
            holder = self._read()
            if holder is None:
                if self._try_take():
                    break
                time.sleep(_HANDOVER_SECONDS)  # somebody was faster
                continue
            if not holder and os.path.lexists(self.path) and not os.access(self.path, os.R_OK):
                raise WorkspaceError(
                    "is another user's lock and may not be read, so nobody can tell whether its holder lives",
                    where=str(self.path),
                    fix="let those who share this place share a group, and run with umask 027 or 002",
                )
            if is_gone(holder) or stillness.seen(holder) > STALE_SECONDS:
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
            time.sleep(_LOOK_SECONDS)
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
        if holder and is_gone(holder):
            with contextlib.suppress(WorkspaceError):  # on a volume that is read-only, for example
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
            partial.write_text(self._content(), encoding="utf-8")
            try:
                os.link(partial, self.path)
            except FileExistsError:
                return self._is_mine()
            except OSError as error:
                if error.errno not in NO_LINKS:
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
            with open(self.path, "x", encoding="utf-8") as stream:
                stream.write(self._content())
        except FileExistsError:
            return False
        return True

    def _is_mine(self) -> bool:
        holder = self._read()
        return holder is not None and holder.get("owner") == self._id

    def _read(self) -> dict[str, Any] | None:
        """The holder, with the time of its file's last change; None if there is none, empty if nobody can tell."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                data = json.load(stream)
                changed = os.fstat(stream.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # over NFS, a file that was replaced while it was read is a stale handle
            return {}
        return {**data, "changed": changed} if isinstance(data, dict) else {}

    def _break(self, holder: dict[str, Any]) -> None:
        """Moves a dead holder's file aside, unless somebody else was faster: whose it is then is put back."""
        aside = self.path.with_name(f".{self.path.name}.dead-{self._id}")
        try:
            os.rename(self.path, aside)
            try:
                taken = json.loads(aside.read_bytes())
            except ValueError:
                taken = {}
            if isinstance(taken, dict) and taken.get("owner") != holder.get("owner"):
                with contextlib.suppress(OSError):  # nor is it lost where there are no links: its owner notices
                    os.link(aside, self.path)
            aside.unlink(missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise explain_os_error(error, "taking over a lock", WorkspaceError, where=str(self.path)) from None

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            holder = self._read()
            if holder is None:
                # Who broke a dead holder's lock took ours by mistake, and was killed before it was back.
                if self.path.parent.is_dir():
                    with contextlib.suppress(WorkspaceError):
                        self._try_take()
            elif holder.get("owner") == self._id:
                self._write_beat()
            elif holder:
                return  # somebody took over while this machine was asleep

    def _write_beat(self) -> None:
        self._beat += 1
        partial = self.path.with_name(f".{self.path.name}.{self._id}")
        try:
            partial.write_text(self._content(), encoding="utf-8")
            os.replace(partial, self.path)
        except OSError:
            # A disk that is full still takes a time, and that is a sign of life as well.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


class _Stillness:
    """For how long the same heartbeat has been watched.

    Between two looks no more than a beat's time counts. Where a machine was asleep, or a volume away for minutes, the holder
    may have been stopped by the same, and gets its chance to beat again.
    """

    def __init__(self) -> None:
        self._mark: Any = None
        self._last = self._seconds = 0.0

    def seen(self, holder: dict[str, Any]) -> float:
        mark, now = (holder.get("owner"), holder.get("beat"), holder.get("changed")), time.monotonic()
        self._seconds = self._seconds + min(now - self._last, BEAT_SECONDS) if mark == self._mark else 0.0
        self._mark, self._last = mark, now
        return self._seconds


def left_by_the_dead(path: Path) -> bool:
    """Whether a lock file, or the temporary one of a lock, belongs to a process of this kernel that is gone."""
    try:
        holder = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(holder, dict) and is_gone(holder)


def describe(holder: dict[str, Any]) -> str:
    """The holder of a lock in words."""
    if not holder:
        return "an unknown process"
    return f"{holder.get('about')} (process {holder.get('pid')} on {holder.get('host')})"
