"""resolve: which bytes, which build key, and whether that release exists already. Needs no GPU and downloads no weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from enginepress.build_key import build_inputs
from enginepress.engines import get_builder, versions
from enginepress.errors import EnginepressError, StoreError
from enginepress.quantities import size_text
from enginepress.recipe import Recipe
from enginepress.repository.templates import template_digest
from enginepress.sources import Revision
from enginepress.sources.glance import QUANTIZATION, WEIGHTS
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source
from enginepress.steps.job import Job, Plan
from enginepress.steps.lost_files import lost_files
from enginepress.steps.revision import revision_of
from enginepress.steps.verify import check_reference
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Workspace

SURE = 0.9
"""Of an estimate of a release's size: with less than this free, it will not fit."""

LOOK_BACK = 8
"""Newest releases that are looked at for one of the same checkpoint: those whose files a new one may share."""


def resolve(job: Job, *, force: bool = False) -> Plan:
    """Makes the plan and leaves the revision in the workspace.

    Args:
        force: what was made for this plan is thrown away, all but the download, and made again. A release with the same
            content stays the same release.

    Raises:
        SourceError, UnsupportedModelError, RecipeError, StoreError: before any weight is downloaded.
    """
    job.workspace.check_writable()
    plan, revision = plan_of(job.recipe, job.workspace.path("cache"), job.run)
    job.workspace.write_json(revision.to_json(), "revisions", f"{plan.revision}.json")
    if force:
        plan = replace(plan, release=0)
        _discard(job.workspace, plan)
    # The model first: a checkpoint that cannot be built is no reason to make a reference of it.
    size = check_model(job.recipe, job.workspace.path("cache"), revision) if not plan.release else 0
    check_reference(job.recipe, plan.revision)
    if not plan.release:
        check_stores(job.recipe, size=size, revision=plan.revision)
    return plan


def check_stores(recipe: Recipe, *, size: int = 0, revision: str = "") -> None:
    """Asks whether its stores would take a release: a wrong bucket, a read-only folder or a full disk must not be found after the
    build.

    Args:
        size: bytes of the release, an estimate; 0 if nobody knows.
        revision: digest of the revision that it is made from.

    Raises:
        StoreError: naming the one that would not.
    """
    primary, *others = (open_store(s) for s in recipe.stores)
    primary.check_publishable(recipe.name, allots=True)
    for store in others:
        store.check_publishable(recipe.name, allots=False)
    for store in (primary, *others):
        _check_room(store, recipe.name, size, revision)


def _check_room(store: Store, name: str, size: int, revision: str) -> None:
    """Releases of the same checkpoint may share their files, so what one more of them takes cannot be told."""
    free = store.free_bytes()
    if free is None or free >= SURE * size or _has_one_of(store, name, revision):
        return
    raise StoreError(
        f"{size_text(free)} are free there, and the release will take about {size_text(size)}",
        where=store.url,
        fix=f"free some space (`enginepress prune {store.url}` removes old releases), or name another store",
    )


def _has_one_of(store: Store, name: str, revision: str) -> bool:
    for number in reversed(store.numbers(name)[-LOOK_BACK:]):
        with contextlib.suppress(StoreError):  # a damaged one tells nothing
            if store.manifest(name, number).made_from["revision_digest"] == revision:
                return True
    return False


def _discard(workspace: Workspace, plan: Plan) -> None:
    for step, (kind, key) in plan.outputs().items():
        if step != "download":
            workspace.discard(kind, key)
    workspace.discard("reports", f"{plan.build_key}-{plan.checks_digest}")


def plan_of(recipe: Recipe, cache: Path, run: str) -> tuple[Plan, Revision]:
    """The plan for what is locked, or what the source holds now. Writes nothing but the source's own cache."""
    builder = get_builder(recipe.engine.builder)
    environment = builder.declared(recipe)
    revision = revision_of(recipe, cache)
    return plan_for(recipe, revision, environment, template_digest(builder.template(recipe)), run), revision


def plan_for(recipe: Recipe, revision: Revision, environment: Mapping[str, str], template: str, run: str) -> Plan:
    """The plan for a revision: its build key, and the release in the primary store that has it, with all its files.

    Args:
        environment: what the builder declares.
        template: digest of the model repository template.
    """
    inputs = build_inputs(recipe, revision.digest, environment, template)
    store = open_store(recipe.stores[0])
    known = store.find(recipe.name, inputs.key)
    lost = lost_files(store, recipe.name, known.release) if known is not None else ""
    return Plan(
        run=run,
        revision=revision.digest,
        revision_id=revision.id,
        engine_key=inputs.engine_key,
        build_key=inputs.key,
        checks_digest=recipe.checks_digest(),
        release=known.release if known is not None and not lost else 0,
        inputs=inputs.to_json(),
        lost=lost,
    )


def check_model(recipe: Recipe, cache: Path, revision: Revision) -> int:
    """Reads config.json, which is small, and asks whether the builder can build and run that, whether it fits, and whether a
    model repository can be made of it: a wrong serving parameter must not be found after the build.

    Returns:
        Bytes that the release will take, an estimate; 0 if there is none.
    """
    source, names = open_source(recipe.source, cache=cache), {file.path for file in revision.files}
    config = model_settings(
        source.read(revision, "config.json"),
        source.read(revision, QUANTIZATION) if QUANTIZATION in names else None,
        where=recipe.source.uri.rstrip("/"),
    )
    get_builder(recipe.engine.builder).check(config, recipe)
    from enginepress.repository.plans import plan_models

    plan_models(recipe)
    weights = sum(file.size for file in revision.files if file.path.endswith(WEIGHTS))
    if recipe.engine.gpu is not None:
        from enginepress.engines import fit

        return fit.check(config, recipe, weights).host.store
    if versions.load_matrix().kind(recipe.engine.builder) is None:
        from enginepress.engines.fit.cpu_plan import cpu_plan

        with contextlib.suppress(EnginepressError):  # the builder takes it; only its size cannot be told
            return cpu_plan(config, weights, recipe).store
    return 0
