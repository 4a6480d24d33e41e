"""Unattended builds that failed, so that the same is not tried at every pass: of a watcher, and of the runs of a schedule.

    <workspace>/watch/attempts.json    by model and store: what was tried, how often it failed, when it is tried again

What is remembered is what was tried. A recipe that has changed since, or whose source, packages, container or template has, is
tried at once.

The pause doubles with each failure, and is at least twice as long as the time between the last two: so it grows for a run a
night as it does for a pass every quarter of an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from enginepress.canonical import json_digest
from enginepress.errors import EnginepressError, WorkspaceError, error_from_json
from enginepress.steps.changed import Change
from enginepress.workspace import Workspace

FIRST_PAUSE = 600.0
LONGEST_PAUSE = 86_400.0
LONGEST_FINAL_PAUSE = 7 * 86_400.0
"""Seconds: after the first failure; at most, where trying again may help; at most, where it changes nothing
(`EnginepressError.final`)."""

KEPT_SECONDS = 30 * 86_400.0
"""So long after it may be tried again a failure is remembered, if nobody tries it."""

_WHERE = ("watch", "attempts.json")
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A build that failed.

    Attributes:
        tried: a digest of everything that the build depends on.
        failures: how often that has failed.
        failed: when it failed the last time, in seconds since 1970.
        again: when it may be tried again.
        error: of the last time, as `EnginepressError.to_json`.
    """

    tried: str
    failures: int
    failed: float
    again: float
    error: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"failures": self.failures, "again": self.again_text, "error": dict(self.error)}

    @property
    def again_text(self) -> str:
        """When it may be tried again, in UTC."""
        return datetime.fromtimestamp(self.again, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def what_is_tried(change: Change) -> str:
    """A digest of everything that the build of a recipe depends on."""
    assert change.recipe is not None, "there is something to build"
    return json_digest([change.recipe.digest(), change.build_key])


def pause_after(failures: int, since_last: float, *, final: bool) -> float:
    """Seconds until what has failed so often is tried again.

    Args:
        since_last: seconds between the last two failures; 0 for the first.
        final: trying again does not change it.
    """
    longest = LONGEST_FINAL_PAUSE if final else LONGEST_PAUSE
    return min(longest, max(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), 2 * since_last))


class Attempts:
    """What failed in a workspace. For several threads, and for processes on several machines, as pods are.

    Raises:
        WorkspaceError: by whatever writes, if the workspace cannot be written.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._failed = self._read()

    def held_back(self, target: str, tried: str) -> Failure | None:
        """The last failure of this very build, if it is not to be tried again yet."""
        failure = self._last(target, tried)
        return failure if failure is not None and time.time() < failure.again else None

    def failed(self, target: str, tried: str, error: EnginepressError | Mapping[str, Any]) -> Failure:
        """Remembers a failure.

        Args:
            target: the model in its store.
        """
        found = error if isinstance(error, EnginepressError) else error_from_json(dict(error))
        now = time.time()

        def remember() -> Failure:
            before = self._last(target, tried)
            failures = 1 + (before.failures if before is not None else 0)
            since_last = max(0.0, now - before.failed) if before is not None else 0.0
            pause = pause_after(failures, since_last, final=found.final)
            self._failed[target] = Failure(tried, failures, now, now + pause, found.to_json())
            return self._failed[target]

        return self._change(remember)

    def forget(self, target: str) -> None:
        """It was built."""
        if target in self._failed:
            self._change(lambda: self._failed.pop(target, None))

    def _last(self, target: str, tried: str) -> Failure | None:
        known = self._failed.get(target)
        return known if known is not None and known.tried == tried else None

    def _change(self, change: Callable[[], T]) -> T:
        """What others have written meanwhile is kept."""
        with self._lock, self._workspace.lock("attempts", about="remembering which builds failed"):
            self._failed = self._read()
            changed = change()
            kept = {target: asdict(f) for target, f in self._failed.items() if time.time() < f.again + KEPT_SECONDS}
            self._workspace.write_json(kept, *_WHERE)
        return changed

    def _read(self) -> dict[str, Failure]:
        try:
            data = self._workspace.read_json(*_WHERE) or {}
            return {
                target: Failure(str(f["tried"]), int(f["failures"]), float(f["failed"]), float(f["again"]), dict(f["error"]))
                for target, f in data.items()
            }
        except (WorkspaceError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # what cannot be read costs a build that fails once more
