"""find_changed: the first step of a scheduled rebuild on a cluster: which recipes of a mounted folder are to be built.

How the recipes stand is found by `steps.changed`, and what failed before and is held back by `steps.attempts`. What is to be
built is left in the workspace and goes on by its name there: a list of whole recipes could be longer than a parameter may be.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enginepress.errors import UsageError
from enginepress.recipe import Recipe
from enginepress.steps.attempts import Attempts, what_is_tried
from enginepress.steps.changed import changed
from enginepress.steps.job import run_name
from enginepress.steps.recipe_folder import recipes_in
from enginepress.steps.travelling import leave_recipe
from enginepress.workspace import Workspace


def find_changed(folder: str, workspace: Workspace, run: str, *, retry_failed: bool = False) -> list[dict[str, str]]:
    """Asks each recipe's source, and compares with the stores. How they stand is left in runs/<run>/changed.json: each as
    `Change.to_json` has it and, of those that have something to build, what is tried, the run that tries it, and by which
    failure it is held back.

    Args:
        retry_failed: what failed before is not held back.

    Returns:
        Of those that are to be built, the parameters of build_and_publish.

    Raises:
        UsageError: if the folder holds no recipe.
    """
    paths = recipes_in(Path(folder))
    if not paths:
        raise UsageError("holds no recipe", where=folder, fix="mount the ConfigMap or PVC that holds recipes as .yaml files")
    attempts = Attempts(workspace)
    records, to_build = [], []
    for change in changed(paths, workspace):
        record = change.to_json()
        records.append(record)
        if change.error is not None:
            print(f"{change.path}: {change.error['message']}", file=sys.stderr)
        if change.recipe is None:
            if change.state == "current":
                attempts.forget(change.target)
            continue
        tried = what_is_tried(change)
        failure = None if retry_failed else attempts.held_back(change.target, tried)
        record |= {
            "target": change.target,
            "tried": tried,
            "run": run_name(run, change.recipe),
            "held_back": failure.to_json() if failure is not None else None,
        }
        if failure is None:
            to_build.append(change.recipe)
        else:
            print(f"{change.path}: held back until {failure.again_text}: {failure.error['message']}", file=sys.stderr)
    workspace.write_json(records, "runs", run, "changed.json")
    return [_parameters(recipe, workspace) for recipe in to_build]


def _parameters(recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    text, digest = leave_recipe(recipe, workspace)
    return {"recipe": text, "recipe_digest": digest}
