"""Pruning a workspace: outputs that nobody has used for long, or that are too many, are removed; the next run makes them anew.

An output was last used when a step last asked for it (`Workspace.find` notes that on its record.json). What stays, whatever age
and size say: an output under a living lock; the outputs of a run that is going on; what was used within the grace period.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import LockedError, WorkspaceError
from enginepress.files import explain_os_error, remove_tree
from enginepress.freed import freed_bytes
from enginepress.steps import STEPS
from enginepress.steps.job import Plan
from enginepress.workspace import Workspace

KINDS = ("checkpoints", "converted", "engines", "repositories", "releases", "reports")
PARTIAL_FILES = "partial/checkpoint-files"
"""What unfinished downloads keep, to go on with."""

GRACE_SECONDS = 3600.0
RUN_ALIVE_SECONDS = 24 * 3600.0
"""A run without a last step whose records stood still for so long was killed, on whatever machine it was."""


@dataclass(frozen=True)
class Item:
    """One output, or one unfinished download.

    Attributes:
        size: bytes that removing it frees.
        used: when it was last used, seconds since the epoch.
        fate: `old` or `too much` if it goes; empty if it stays; else why it must stay.
    """

    kind: str
    key: str
    path: Path
    size: int
    used: float
    fate: str = ""

    @property
    def goes(self) -> bool:
        return self.fate in ("old", "too much")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "goes": self.goes}


@dataclass(frozen=True)
class WorkspacePlan:
    """What would be removed. `total` is what all items take now."""

    workspace: Workspace
    items: tuple[Item, ...]

    @property
    def total(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def doomed(self) -> list[Item]:
        return [item for item in self.items if item.goes]

    @property
    def freed(self) -> int:
        return sum(item.size for item in self.doomed)

    def to_json(self) -> dict[str, Any]:
        items = [item.to_json() for item in self.items]
        return {"workspace": str(self.workspace.root), "total": self.total, "freed": self.freed, "outputs": items}


def plan_workspace(
    workspace: Workspace,
    *,
    max_size: int | None = None,
    older_than: float | None = None,
    grace: float = GRACE_SECONDS,
    now: float | None = None,
) -> WorkspacePlan:
    """What pruning would remove, the longest unused first. Changes nothing.

    Args:
        max_size: bytes that may stay; None: any number.
        older_than: what was not used for so many seconds goes; None: age does not matter.

    Raises:
        WorkspaceError: if the workspace cannot be read.
    """
    now = time.time() if now is None else now
    if not workspace.root.is_dir():
        raise WorkspaceError("is not there", where=str(workspace.root), fix="check `--workspace`")
    try:
        found = sorted(_items(workspace), key=lambda item: item.used)
    except OSError as error:
        raise explain_os_error(error, "reading the workspace", WorkspaceError) from None
    busy = _busy(workspace, now)
    left = sum(item.size for item in found)
    items = []
    for item in found:
        fate = "of a run that is going on" if (item.kind, item.key) in busy else ""
        fate = fate or ("locked" if _is_locked(workspace, item) else "") or ("just used" if now - item.used < grace else "")
        if not fate and older_than is not None and now - item.used > older_than:
            fate = "old"
        # Reports are evidence, and small: they go by age alone.
        elif not fate and max_size is not None and left > max_size and item.kind != "reports":
            fate = "too much"
        fated = Item(item.kind, item.key, item.path, item.size, item.used, fate)
        left -= item.size if fated.goes else 0
        items.append(fated)
    return WorkspacePlan(workspace, tuple(items))


def prune_workspace(plan: WorkspacePlan, on_removed: Callable[[Item], None] | None = None) -> list[Item]:
    """Removes what was planned, each output under its lock, unless it was used since. What went.

    Raises:
        WorkspaceError: if something cannot be removed.
    """
    workspace = plan.workspace
    workspace.sweep()
    removed = []
    for item in plan.doomed:
        try:
            with workspace.lock(f"{item.kind.replace('/', '-')}-{item.key}", about="pruning", wait=False):
                if _used(item.path) > item.used or (item.kind, item.key) in _busy(workspace, time.time()):
                    continue
                if item.path.is_dir():
                    remove_tree(item.path)
                else:
                    item.path.unlink(missing_ok=True)
        except LockedError:
            continue
        except OSError as error:
            raise explain_os_error(error, "pruning the workspace", WorkspaceError) from None
        removed.append(item)
        if on_removed is not None:
            on_removed(item)
    for kind in KINDS:  # of a prune that was killed
        for left in workspace.path(kind).glob(".removed-*"):
            shutil.rmtree(left, ignore_errors=True)
    return removed


def _items(workspace: Workspace) -> Iterator[Item]:
    for kind in (*KINDS, PARTIAL_FILES):
        folder = workspace.path(kind)
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if not path.name.startswith("."):
                yield Item(kind, path.name, path, _size(path), _used(path))


def _size(path: Path) -> int:
    return freed_bytes([path]) if path.is_dir() else path.lstat().st_blocks * 512


def _used(path: Path) -> float:
    """When an output was last asked for. Reports and unfinished files have no record: when they last changed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (path / "record.json").stat().st_mtime
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _is_locked(workspace: Workspace, item: Item) -> bool:
    lock = workspace.path("locks", f"{item.kind}-{item.key}.json")
    if not lock.exists():
        return False
    try:
        with workspace.lock(lock.stem, about="looking whether it is used", wait=False):
            return False
    except LockedError:
        return True


def _busy(workspace: Workspace, now: float) -> set[tuple[str, str]]:
    """Outputs that runs which have not ended work with."""
    running_here = any(_held(workspace, lock) for lock in workspace.path("locks").glob("run-*.json"))
    found: set[tuple[str, str]] = set()
    for run in workspace.path("runs").glob("*/"):
        records = _records(run)
        plan = next((record.get("facts") for record in records if record.get("step") == "resolve"), None)
        if plan is None or _has_ended(records):
            continue
        if running_here or now - max(_times(run), default=0.0) < RUN_ALIVE_SECONDS:
            with contextlib.suppress(TypeError):  # a record of another version
                the_plan = Plan(**plan)
                found |= set(the_plan.outputs().values())
                found.add(("reports", f"{the_plan.build_key}-{the_plan.checks_digest}"))
    return found


def _held(workspace: Workspace, lock: Path) -> bool:
    try:
        with workspace.lock(lock.stem, about="looking whether a run is going on", wait=False):
            return False
    except LockedError:
        return True


def _records(run: Path) -> list[dict[str, Any]]:
    found = []
    for path in run.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(path.read_text())
            if isinstance(record, dict):
                found.append(record)
    return found


def _has_ended(records: Sequence[dict[str, Any]]) -> bool:
    status = {record.get("step"): record.get("status") for record in records}
    return status.get(STEPS[-1]) == "done" or "failed" in status.values()


def _times(folder: Path) -> Iterator[float]:
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            yield entry.stat().st_mtime
