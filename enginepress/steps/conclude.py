"""conclude: the last step of a scheduled rebuild. People look at how runs end, so one in which a recipe is not well ends badly.

It comes when everything has been built that could be. What a build failed with ends the run badly by itself.
"""

from __future__ import annotations

from enginepress.errors import EnginepressError, WorkspaceError
from enginepress.steps.changes_markdown import is_held_back
from enginepress.workspace import Workspace


def conclude(workspace: Workspace, run: str) -> str:
    """Says that all recipes of a run are well.

    Raises:
        EnginepressError: if one could not be told to be, or is held back since its build failed before.
    """
    changes = workspace.read_json("runs", run, "changed.json")
    if changes is None:
        raise WorkspaceError("is not there", where=str(workspace.path("runs", run, "changed.json")), fix="start the run again")
    wrong = [f"{one['path']}: {one['error']['message']}" for one in changes if one["error"] is not None]
    wrong += [
        f"{one['path']}: held back until {one['held_back']['again']}, its build failed: {one['held_back']['error']['message']}"
        for one in changes
        if is_held_back(one)
    ]
    if wrong:
        raise EnginepressError(
            f"{len(wrong)} of {len(changes)} recipes are not well; all others are\n" + "\n".join(wrong),
            fix="the report of this run says for each what to do",
        )
    return f"All {len(changes)} recipes are well." if len(changes) != 1 else "The recipe is well."
