"""gate: the verify step's gate on demand, of a build or a release, anew. Publishes nothing and records nothing in a store."""

from __future__ import annotations

from dataclasses import replace

from enginepress.errors import StoreError
from enginepress.recipe import Recipe
from enginepress.steps.job import Job
from enginepress.steps.release_folder import release_folder
from enginepress.steps.resolve import plan_of
from enginepress.steps.verify import Attempt, attempt, reports_key
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace


def gate_now(recipe: Recipe, workspace: Workspace, *, release: int | None = None) -> Attempt:
    """Gates once more and keeps the report in the workspace.

    Args:
        release: the release to gate; None: what the recipe builds now, from the workspace or the primary store.

    Raises:
        StoreError: if that is neither built nor published.
    """
    workspace.check_writable()
    plan, _ = plan_of(recipe, workspace.path("cache"), "gate")
    store = open_store(recipe.stores[0])
    built = workspace.find(*plan.outputs()["assemble"])
    number = release or plan.release
    if number:
        manifest = store.manifest(recipe.name, number)
        repository = release_folder(store, recipe.name, number, workspace)
        plan = replace(plan, release=number, build_key=manifest.build_key, revision=manifest.made_from["revision_digest"])
    elif built is not None:
        repository = built.folder
    else:
        raise StoreError(
            f"holds no release of what {recipe.name} builds now, and the workspace holds no build of it",
            where=store.url,
            fix="`enginepress run RECIPE` builds it; --release N gates an older one",
        )
    job = Job(recipe, workspace, "gate")
    with workspace.lock(f"reports-{reports_key(plan)}", about=f"gate of {recipe.name}"):
        return attempt(job, plan, repository)
