"""The workspace: the folder (a PVC on a cluster) where steps leave their outputs, addressed by content.

    revisions/<digest>.json                         what a source resolved to, file by file
    checkpoints/<revision digest>/record.json       what the step read, ran and how long it took
                                 /output/…          the checkpoint's files
    converted/<engine key>/…   engines/<engine key>/…   repositories/<build key>/…       each with record.json and output/
    releases/<manifest digest>/…                    releases that were fetched from a store that is no folder
    reports/<build key>-<checks digest>/<attempt>/  report.json, report.md, report.html, server.log; passed or not
    runs/<run id>/<step>.json                       how each step of a run ended: seconds, and its error if it failed
    partial/<kind>-<key>-<random>/                  somebody is working, or was killed
    locks/                                          who is working on what

A folder outside `partial/` is complete: it was written apart, synced and renamed. It is never written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.cluster import WORKSPACE as ENVIRONMENT
from enginepress.cluster import Cluster
from enginepress.errors import LockedError, WorkspaceError
from enginepress.files import commit_folder, explain_os_error, remove_tree, sync_tree, write_atomic
from enginepress.json_text import parse_json
from enginepress.locks import Lock, left_by_the_dead

__all__ = ["ENVIRONMENT", "Output", "Workspace"]

USED_SECONDS = 600.0
"""How exactly it is noted when an output was last used: on the time of its record.json."""

_ROUNDS = 3
"""So often an output is begun: more than once only if others took over while this process was asleep."""


@dataclass(frozen=True)
class Output:
    """One complete output: `folder` holds the files, `record` says how they came about."""

    kind: str
    key: str
    folder: Path
    record: dict[str, Any]


class Workspace:
    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def from_environment() -> Workspace:
        """The workspace of this pipeline run: steps get its path by the environment, since kfp may rewrite parameters. On a
        cluster it is where the compiled pipeline mounts it."""
        path = os.environ.get(ENVIRONMENT)
        if not path and (cluster := Cluster.from_environment()) is not None:
            path = cluster.workspace
        if not path:
            raise WorkspaceError(f"{ENVIRONMENT} is not set, so this step does not know its workspace")
        return Workspace(Path(path))

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def check_writable(self) -> None:
        """Raises WorkspaceError, with what to mend, if nothing can be written here."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex[:8]}"
            probe.write_bytes(b"enginepress")
            probe.unlink()
        except OSError as error:
            raise explain_os_error(error, "writing to the workspace", WorkspaceError, where=str(self.root)) from None

    def lock(self, name: str, *, about: str, wait: bool = True, on_wait: Callable[[str], None] | None = None) -> Lock:
        return Lock(self.path("locks", f"{name}.json"), about=about, wait=wait, on_wait=on_wait)

    def find(self, kind: str, key: str) -> Output | None:
        """The complete output of this key, or None.

        Raises:
            WorkspaceError: if its record was damaged; nobody knows then what the output is.
        """
        folder = self.path(kind, key)
        record = self.read_json(kind, key, "record.json", fix=f"remove the folder {folder}, and run again: it is made anew")
        if record is None:
            return None
        with contextlib.suppress(OSError):  # `enginepress prune` goes by when an output was last used
            if time.time() - (folder / "record.json").stat().st_mtime > USED_SECONDS:
                os.utime(folder / "record.json")
        return Output(kind, key, folder / "output", record)

    def produce(self, kind: str, key: str, work: Callable[[Path], dict[str, Any]], *, about: str) -> Output:
        """The output of this key: the finished one, or a new one made by `work`.

        Args:
            work: fills the empty folder that it is given and returns what the record shall hold besides the seconds.
            about: for people who wait for the lock.

        Raises:
            WorkspaceError: if the workspace is full or not writable.
        """
        for _ in range(_ROUNDS):
            if (done := self.find(kind, key)) is not None:
                return done
            with self.lock(f"{kind}-{key}", about=about):
                if (done := self.find(kind, key)) is not None:
                    return done
                self._sweep(kind, key)
                self._make(kind, key, work)
        done = self.find(kind, key)
        if done is None:
            raise WorkspaceError("was removed while it was being used", where=str(self.path(kind, key)))
        return done

    def _make(self, kind: str, key: str, work: Callable[[Path], dict[str, Any]]) -> None:
        """One attempt at an output. It comes to nothing, and says so by returning, if somebody else has swept it away meanwhile:
        whoever is asleep for longer than a lock's heartbeat may stand still is taken for dead, and wakes up without a folder."""
        partial = self.path("partial", f"{kind}-{key}-{uuid.uuid4().hex[:8]}")
        with _in_words(kind):
            (partial / "output").mkdir(parents=True)
        try:
            start = time.time()
            with _in_words(kind):
                record = work(partial / "output")
                record = {**record, "kind": kind, "key": key, "started": start, "seconds": round(time.time() - start, 3)}
                write_atomic(partial / "record.json", json.dumps(record, indent=1, sort_keys=True), make_folder=False)
                sync_tree(partial)
                commit_folder(partial, self.path(kind, key))
        except Exception:
            if os.path.lexists(partial):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def discard(self, kind: str, key: str) -> None:
        """Removes one output, so that the next run makes it anew (`run --force`)."""
        with self.lock(f"{kind}-{key}", about="discarding"):
            remove_tree(self.path(kind, key))

    def _sweep(self, kind: str, key: str) -> None:
        """Removes what killed predecessors left. Called under the output's lock: whoever still writes there has lost it."""
        for leftover in self.path("partial").glob(f"{kind}-{key}-*"):
            _remove(leftover)

    def leftovers(self) -> list[Path]:
        """Folders in `partial/` on which nobody works."""
        found = []
        for folder in sorted(self.path("partial").glob("*-*-*")):
            lock = self.lock(folder.name.rpartition("-")[0], about="looking for leftovers", wait=False)
            try:
                with lock:
                    found.append(folder)
            except LockedError:
                continue
        return found

    def sweep(self) -> None:
        """Removes what killed runs left: folders on which nobody works, locks whose holders are dead on this machine.

        A run needs none of it gone, so what cannot be removed stays.
        """
        with contextlib.suppress(OSError, WorkspaceError):
            for folder in [*self.leftovers(), *self.path("partial").glob(".removed-*")]:
                _remove(folder)
            for path in sorted(self.path("locks").glob("*.json")):
                Lock(path, about="sweeping").forget_the_dead()
            for path in sorted(self.path("locks").glob(".*")):
                if left_by_the_dead(path):
                    path.unlink(missing_ok=True)

    # Small JSON files ------------------------------------------------------------------------------------------------

    def read_json(self, *parts: str, fix: str = "remove this file, and run again: it is written anew") -> Any | None:
        """The content of a file, None if it is not there. Raises WorkspaceError if it was damaged or cannot be read."""
        path = self.path(*parts)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_os_error(error, "reading the workspace", WorkspaceError, where=str(path)) from None
        return parse_json(text, where=str(path), kind=WorkspaceError, problem="is damaged", fix=fix)

    def write_json(self, value: Any, *parts: str) -> Path:
        return self.write_text(json.dumps(value, indent=1, sort_keys=True), *parts)

    def write_text(self, text: str, *parts: str) -> Path:
        """Raises WorkspaceError if the workspace is full or not writable."""
        path = self.path(*parts)
        try:
            write_atomic(path, text.encode("utf-8", errors="backslashreplace"))
        except OSError as error:
            raise explain_os_error(error, "writing to the workspace", WorkspaceError, where=str(path)) from None
        return path


@contextlib.contextmanager
def _in_words(kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, f"writing {kind}", WorkspaceError) from None


def _remove(folder: Path) -> None:
    """Removes a folder in which somebody may still be writing: under another name first, so that it is never put into place
    half removed."""
    with contextlib.suppress(OSError):
        remove_tree(folder)
