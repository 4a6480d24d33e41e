"""The recipe as it arrives at a step: as JSON, or, if it was left in the workspace because it may be long, as its name there.

A parameter goes through command lines, which take 128 KiB at most; a recipe with a reference of many prompts is longer. Whoever
can write to the workspace leaves it there, under its digest.
"""

from __future__ import annotations

import re

from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.recipe_file import recipe_from_json, travelling_json
from enginepress.workspace import Workspace

_LEFT = re.compile(r"workspace:([0-9a-f]{64})")


def leave_recipe(recipe: Recipe, workspace: Workspace) -> tuple[str, str]:
    """Leaves a recipe in the workspace. Returns the parameters `recipe` and `recipe_digest` that name it."""
    digest = recipe.digest()
    workspace.write_json({"recipe": travelling_json(recipe)}, "recipes", f"{digest}.json")
    return f"workspace:{digest}", digest


def arrived_recipe(text: str, digest: str, workspace: Workspace) -> Recipe:
    """The recipe that a step's parameters hold or name.

    Raises:
        RecipeError: if it is not the recipe that was sent, or is not there.
    """
    if (left := _LEFT.fullmatch(text)) is None:
        return recipe_from_json(text, digest)
    data = workspace.read_json("recipes", f"{left[1]}.json")
    if data is None:
        raise RecipeError("is not in this workspace", where=text, fix="start the run again, with this workspace's PVC")
    return recipe_from_json(data["recipe"], left[1])
