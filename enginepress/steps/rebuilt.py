"""What became of the builds of a scheduled rebuild, for its exit handler: what failed is remembered, so that the next runs hold
it back, and what was built is forgotten.

The exit handler is the one place that sees each build once, whatever it met: a step that failed is tried again within its run,
and one that is killed says nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from enginepress.errors import EnginepressError, WorkspaceError
from enginepress.steps import STEPS
from enginepress.steps.attempts import Attempts
from enginepress.steps.changes_markdown import is_built
from enginepress.workspace import Workspace

CANCELLED = ("CANCELED", "CANCELLED", "CANCELING")
"""States of a run that somebody has ended. Which of its steps would have failed nobody knows."""


def records_of(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """How the steps of one recipe's run ended, in their order. What cannot be read is told as a failure of its step."""
    found = []
    for step in STEPS:
        try:
            record = workspace.read_json("runs", run, f"{step}.json")
        except WorkspaceError as error:
            record = {"step": step, "status": "failed", "seconds": 0.0, "error": error.to_json()}
        if record is not None:
            found.append(record)
    return found


def remember(workspace: Workspace, run: str, changes: Sequence[Mapping[str, Any]], state: str) -> dict[str, dict[str, Any]]:
    """Remembers what became of what the run has built. Done again, as by an exit handler that was killed, it does nothing.

    Args:
        changes: as `steps.find_changed` leaves them.
        state: as Kubeflow says that the run ended.

    Returns:
        Of each build that failed, by the name of its run, how often it has, and when it is tried again.
    """
    done: dict[str, dict[str, Any]] | None = workspace.read_json("runs", run, "remembered.json")
    if done is not None:
        return done
    failed = {}
    attempts = Attempts(workspace)
    for change in changes:
        if not is_built(change) or "tried" not in change:
            continue
        records = records_of(workspace, change["run"])
        if records and records[-1]["step"] == STEPS[-1] and records[-1]["status"] == "done":
            attempts.forget(change["target"])
        elif (error := _failure(records, state)) is not None:
            failed[change["run"]] = attempts.failed(change["target"], change["tried"], error).to_json()
    workspace.write_json(failed, "runs", run, "remembered.json")
    return failed


def remembered(workspace: Workspace, run: str, changes: Sequence[Mapping[str, Any]], state: str) -> dict[str, dict[str, Any]]:
    """As `remember`; a workspace that cannot be written costs the memory, not the report."""
    with contextlib.suppress(WorkspaceError):
        return remember(workspace, run, changes, state)
    return {}


def _failure(records: Sequence[Mapping[str, Any]], state: str) -> EnginepressError | Mapping[str, Any] | None:
    """What a build failed with. None if nothing did, as when its pods never began."""
    for record in records:
        if record["status"] == "failed":
            error: Mapping[str, Any] = record["error"]
            return error
    if records and records[-1]["status"] == "running" and state.upper() not in CANCELLED:
        return EnginepressError(
            f"{records[-1]['step']} was killed, took too long, or its node was lost",
            fix="look at its pod's events and log; the next try goes on from there",
        )
    return None
