"""reference: downloads the checkpoint into the workspace and writes down how transformers answers the recipe's prompts."""

from __future__ import annotations

from typing import Any

from enginepress.recipe import Recipe
from enginepress.serving.reference import make_reference
from enginepress.sources.open import open_source
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job
from enginepress.workspace import Workspace


def reference_of(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    workspace.check_writable()
    source = open_source(recipe.source, cache=workspace.path("cache"))
    revision = source.resolve()
    workspace.write_json(revision.to_json(), "revisions", f"{revision.digest}.json")
    checkpoint = produce_checkpoint(Job(recipe, workspace, "reference"), revision.digest)
    return make_reference(checkpoint.folder, recipe, revision_digest=revision.digest, source=recipe.source.uri)
