"""reference: downloads the checkpoint into the workspace and writes down how transformers answers the recipe's prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from enginepress.recipe import Recipe
from enginepress.serving.reference import make_reference
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job
from enginepress.steps.revision import revision_of
from enginepress.workspace import Workspace


def reference_of(recipe: Recipe, workspace: Workspace, *, beside: Path) -> dict[str, Any]:
    """The content of a reference file.

    Args:
        beside: folder of the file; a local source is named relative to it, so that both can move together.
    """
    workspace.check_writable()
    revision = revision_of(recipe, workspace.path("cache"))
    workspace.write_json(revision.to_json(), "revisions", f"{revision.digest}.json")
    checkpoint = produce_checkpoint(Job(recipe, workspace, "reference"), revision.digest)
    uri = recipe.source.uri
    if uri.startswith("file://"):
        uri = "file://" + os.path.relpath(uri.removeprefix("file://"), beside.resolve())
    return make_reference(checkpoint.folder, recipe, revision_digest=revision.digest, source=uri)
