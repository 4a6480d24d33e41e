"""find_changed: the first step of a scheduled rebuild on a cluster: which recipes of a mounted folder are to be built.

How the recipes stand is found by `steps.changed`. What is to be built is left in the workspace and goes on by its name there:
a list of whole recipes could be longer than a parameter may be.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enginepress.errors import UsageError
from enginepress.recipe import Recipe
from enginepress.steps.changed import changed
from enginepress.steps.recipe_folder import recipes_in
from enginepress.steps.travelling import leave_recipe
from enginepress.workspace import Workspace


def find_changed(folder: str, workspace: Workspace, run: str) -> list[dict[str, str]]:
    """Asks each recipe's source, and compares with the stores. How they stand is left in runs/<run>/changed.json.

    Returns:
        Of those that are to be built, the parameters of build_and_publish.

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
    return [_parameters(c.recipe, workspace) for c in found if c.recipe is not None]


def _parameters(recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    text, digest = leave_recipe(recipe, workspace)
    return {"recipe": text, "recipe_digest": digest}
