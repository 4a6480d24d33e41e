"""resolve: which bytes, which build key, and whether that release exists already. Needs no GPU and downloads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from enginepress.build_key import build_inputs
from enginepress.engines import get_builder
from enginepress.recipe import Recipe
from enginepress.repository.templates import template_digest
from enginepress.sources import Revision
from enginepress.sources.glance import QUANTIZATION, WEIGHTS
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source
from enginepress.steps.job import Job, Plan
from enginepress.steps.revision import revision_of
from enginepress.steps.verify import check_reference
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace


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
    check_reference(job.recipe, plan.revision)
    if not plan.release:
        check_model(job.recipe, job.workspace.path("cache"), revision)
        check_stores(job.recipe)
    return plan


def check_stores(recipe: Recipe) -> None:
    """Asks whether its stores would take a release: a wrong bucket or a read-only folder must not be found after the build.

    Raises:
        StoreError: naming the one that would not.
    """
    primary, *others = (open_store(s) for s in recipe.stores)
    primary.check_publishable(recipe.name, allots=True)
    for store in others:
        store.check_publishable(recipe.name, allots=False)


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
    """The plan for a revision: its build key, and the release in the primary store that has it.

    Args:
        environment: what the builder declares.
        template: digest of the model repository template.
    """
    inputs = build_inputs(recipe, revision.digest, environment, template)
    known = open_store(recipe.stores[0]).find(recipe.name, inputs.key)
    return Plan(
        run=run,
        revision=revision.digest,
        revision_id=revision.id,
        engine_key=inputs.engine_key,
        build_key=inputs.key,
        checks_digest=recipe.checks_digest(),
        release=known.release if known is not None else 0,
        inputs=inputs.to_json(),
    )


def check_model(recipe: Recipe, cache: Path, revision: Revision) -> None:
    """Reads config.json, which is small, and asks whether the builder can build and run that, whether it fits, and whether a
    model repository can be made of it: a wrong serving parameter must not be found after the build."""
    source, names = open_source(recipe.source, cache=cache), {file.path for file in revision.files}
    config = model_settings(
        source.read(revision, "config.json"),
        source.read(revision, QUANTIZATION) if QUANTIZATION in names else None,
        where=recipe.source.uri.rstrip("/"),
    )
    get_builder(recipe.engine.builder).check(config, recipe)
    from enginepress.repository.plans import plan_models

    plan_models(recipe)
    if recipe.engine.gpu is not None:
        from enginepress.engines import fit

        fit.check(config, recipe, sum(file.size for file in revision.files if file.path.endswith(WEIGHTS)))
