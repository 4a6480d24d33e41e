"""Fit: what a recipe takes on its GPUs, whether that fits, and the smallest change with which it does.

    plan(config, weight_bytes, recipe, gpu, container) -> FitPlan      everything, as a value; never raises for what does not fit
    check(config, recipe, weight_bytes=None)                           raises what `plan` found, for builders

The formulas' sources stand where the formulas are: `weights`, `cache`, `working`, `draft`, `adapters`, `host`, `parallelism`;
the commits at which they were read, in docs/plan.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from enginepress.engines import gpus, versions
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.changes import Objections, changes_for
from enginepress.engines.fit.draft import Draft, named_draft
from enginepress.engines.fit.gpu_plan import FitPlan, assess
from enginepress.engines.fit.parallelism import check_parallelism
from enginepress.engines.fit.problem import Problem, combined
from enginepress.engines.gpus import Gpu
from enginepress.engines.versions import Container
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe

__all__ = [
    "Change",
    "Draft",
    "FitPlan",
    "Problem",
    "check",
    "check_parallelism",
    "gpu_and_container",
    "named_draft",
    "plan",
    "plan_without_changes",
    "refusal",
    "with_changes",
]


def plan(
    config: Mapping[str, Any],
    weight_bytes: int | None,
    recipe: Recipe,
    gpu: Gpu,
    container: Container,
    *,
    changes: bool = True,
    draft: Draft | None = None,
) -> FitPlan:
    """What the recipe takes. Pure.

    Args:
        config: the checkpoint's config.json.
        weight_bytes: of its weight files together, or None to go by the shapes.
        changes: look for changes if it does not fit.
        draft: the model that speculates beside it.

    Raises:
        SourceError, UnsupportedModelError: if config.json does not say what the model is.
    """
    shape = read_shape(config)
    found = assess(shape, weight_bytes, recipe, gpu, container, draft)
    if not found.fits:
        return replace(found, changes=changes_for(found, weight_bytes)) if changes else found
    for profile in gpu.mig[:-1] if found.world_size == 1 else ():  # the last is the whole GPU
        part = gpu.profile(profile.name)
        if (
            smaller := assess(shape, weight_bytes, recipe, part, container, draft)
        ).fits and smaller.full_requests == found.full_requests:
            return replace(found, notes=(*found.notes, f"the MIG profile {profile.name} suffices: engine.gpu.name: {part.name}"))
    return found


def plan_without_changes(
    config: Mapping[str, Any],
    weight_bytes: int | None,
    recipe: Recipe,
    gpu: Gpu,
    container: Container,
    *,
    draft: Draft | None = None,
) -> FitPlan:
    """Like `plan`, without looking for changes: for comparing many GPUs."""
    return assess(read_shape(config), weight_bytes, recipe, gpu, container, draft)


def check(config: Mapping[str, Any], recipe: Recipe, weight_bytes: int | None = None) -> FitPlan:
    """Refuses what does not fit, with everything that is in the way and the smallest changes that help.

    Raises:
        RecipeError: as above, or if no GPU is named.
        SourceError, UnsupportedModelError: if config.json does not say what the model is.
    """
    gpu, container = gpu_and_container(recipe)
    found = plan(config, weight_bytes, recipe, gpu, container)
    if not found.fits:
        raise refusal(found)
    return found


def with_changes(found: FitPlan, weight_bytes: int | None, objections: Objections) -> FitPlan:
    """A plan that does not hold, with changes that do: neither the plan nor those who object have anything against them."""
    return found if found.fits else replace(found, changes=changes_for(found, weight_bytes, objections))


def refusal(found: FitPlan) -> RecipeError:
    """The error that says why a plan does not fit, and what would."""
    error = combined(found.problems)
    offers = [f"{change.text} ({change.why})" for change in found.changes]
    if not offers:
        return RecipeError(error.message, where=error.where, fix=error.fix or "no change of one or two fields makes it fit")
    said = f"{error.fix}\n" if error.fix else ""
    fits = f"it fits with {offers[0]}" if len(offers) == 1 else "it fits with any of these, the smallest change first:"
    lines = [fits, *(f"  {offer}" for offer in offers)] if len(offers) > 1 else [fits]
    return RecipeError(error.message, where=error.where, fix=said + "\n".join(lines))


def gpu_and_container(recipe: Recipe) -> tuple[Gpu, Container]:
    """The recipe's GPU, and the container for it: the one asked for, or the newest that can do it. Where none can do it all, the
    newest that serves the builder, so that a plan can say everything that is in the way.

    Raises:
        RecipeError: no GPU named, or no such GPU or container.
    """
    engine = recipe.engine
    if engine.gpu is None:
        raise RecipeError(
            f"builder '{engine.builder}' needs to know the GPU that it builds for",
            where="engine.gpu",
            fix="name it, as engine.gpu: {name: L4}",
        )
    gpu, matrix = gpus.find(engine.gpu.name), versions.load_matrix()
    if engine.container is not None:
        row = versions.asked_for(recipe, matrix)
        return gpu, replace(row, image=engine.image) if engine.image is not None else row
    try:
        return gpu, versions.choose(recipe, matrix)
    except RecipeError:
        newest = matrix.last(engine.builder)
        if newest is None:
            raise
        return gpu, newest
