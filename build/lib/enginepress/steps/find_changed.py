"""find_changed: the first step of a scheduled rebuild on a cluster: which recipes of a mounted folder are to be built.

How the recipes stand is found by `steps.changed`. What is to be built is left in the workspace and goes on by its name there:
a list of whole recipes could be longer than a parameter may be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from enginepress.errors import UsageError
from enginepress.recipe_file import is_recipe
from enginepress.steps.changed import Change, changed
from enginepress.steps.travelling import leave_recipe
from enginepress.workspace import Workspace


def find_changed(folder: str, workspace: Workspace, run: str) -> tuple[str, list[dict[str, str]]]:
    """Asks each recipe's source, and compares with the stores.

    Returns:
        How every recipe stands, as JSON; and of those that are to be built the parameters of build_and_publish. Two recipes of
        one model would undo each other's releases, so of them none is built.

    Raises:
        UsageError: if the folder holds no recipe.
    """
    paths = recipes_in(Path(folder))
    if not paths:
        raise UsageError("holds no recipe", where=folder, fix="mount the ConfigMap or PVC that holds recipes as .yaml files")
    found = changed(paths, workspace)
    for change in found:
        if change.error is not None:
            print(f"{change.path}: {change.error['message']}", file=sys.stderr)
    workspace.write_json([c.to_json() for c in found], "runs", run, "changed.json")
    names = [change.name for change in found if change.name]
    twice = {name for name in names if names.count(name) > 1}
    todo = [c for c in found if c.recipe is not None and c.name not in twice]
    return json.dumps(_summary(found, twice), sort_keys=True), [_parameters(c, workspace) for c in todo]


def recipes_in(folder: Path) -> list[Path]:
    """The recipes of a folder and those under it. Links are followed, but not into hidden folders: a mounted ConfigMap shows each
    file as a link into one, and Git-sync the whole working copy."""
    found = []
    for path in sorted(folder.rglob("*.y*ml")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix in (".yaml", ".yml") and path.is_file() and is_recipe(path):
            found.append(path)
    return found


def _parameters(change: Change, workspace: Workspace) -> dict[str, str]:
    assert change.recipe is not None
    recipe, digest = leave_recipe(change.recipe, workspace)
    return {"recipe": recipe, "recipe_digest": digest, "name": change.name}


def _summary(found: list[Change], twice: set[str]) -> dict[str, Any]:
    states: dict[str, int] = {}
    for change in found:
        states[change.state] = states.get(change.state, 0) + 1
    failed = [{"path": c.path, "error": c.error} for c in found if c.error is not None]
    return {"recipes": len(found), "states": states, "failed": failed[:20], "named_twice": sorted(twice)}
