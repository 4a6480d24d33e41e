"""plan: what a recipe will take, before anything is downloaded: config.json and the sizes of files are all that is read.

It is no step of a run and leaves nothing behind. It tells what `fit` computes, whether the recipe's builder takes the model at
all, and the commands that would be run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enginepress.engines import fit, get_builder, gpus, versions
from enginepress.engines.fit.cpu_plan import CpuPlan, cpu_plan
from enginepress.engines.fit.problem import Problem
from enginepress.errors import EnginepressError, RecipeError, UsageError
from enginepress.recipe import Gpu, Recipe
from enginepress.sources.glance import Glance, glance


@dataclass(frozen=True)
class PlanReport:
    """A plan and what it was made for.

    Attributes:
        seen: the checkpoint, with the files that a build would take and those that it would leave.
        commands: lines that the build would run; empty where the builder does not tell.
    """

    recipe: Recipe
    seen: Glance
    plan: fit.FitPlan | CpuPlan
    commands: tuple[str, ...] = ()

    @property
    def refusal(self) -> EnginepressError | None:
        """Why the recipe is refused, with what would do; None if it is not."""
        return None if isinstance(self.plan, CpuPlan) or self.plan.fits else fit.refusal(self.plan)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "source": self.recipe.source.uri,
            "revision": self.seen.revision,
            "files": dict(self.seen.files),
            "unused": list(self.seen.unused),
            **self.plan.to_json(),
            "commands": list(self.commands),
        }


@dataclass(frozen=True)
class GpuRow:
    """One GPU of a comparison: the plan on it, or why there is none."""

    gpu: gpus.Gpu
    plan: fit.FitPlan

    def to_json(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "gpu": self.gpu.name,
            "memory_bytes": self.gpu.memory_bytes,
            "fits": plan.fits,
            "container": plan.container.tag,
            "weights": plan.weights.rank,
            "kv_cache_pool": plan.cache_pool,
            "full_requests": plan.full_requests,
            "largest_sequence": plan.largest_sequence,
            "problems": [p.to_json() for p in plan.problems],
        }


def plan_recipe(recipe: Recipe, *, gpu: str | None = None, driver: str | None = None) -> PlanReport:
    """The plan of a recipe.

    Args:
        gpu: another GPU than the recipe's, by any of its names.
        driver: of the machines, as nvidia-smi prints it: compared with what the container's CUDA needs.

    Raises:
        RecipeError, SourceError, UnsupportedModelError: if there can be no plan. A plan that does not fit is no error here.
    """
    recipe = _on(recipe, gpu)
    seen = glance(recipe.source)
    if not _needs_gpu(recipe):
        get_builder(recipe.engine.builder).check(seen.config, recipe)
        return PlanReport(recipe, seen, cpu_plan(seen.config, seen.weight_bytes, recipe))
    device, container = fit.gpu_and_container(recipe)
    found = fit.plan(seen.config, seen.weight_bytes, recipe, device, container, changes=False, draft=draft_of(recipe))

    def objections(tried: Recipe, gpu: gpus.Gpu, row: versions.Container) -> list[Problem]:
        return [*_driver_problems(gpu, row, driver), *_builder_problems(seen.config, tried)]

    found = _with_problems(found, objections(recipe, device, container))
    found = fit.with_changes(found, seen.weight_bytes, objections)
    return PlanReport(recipe, seen, found, _commands(seen.config, recipe))


def compare(recipe: Recipe, *, driver: str | None = None) -> list[GpuRow]:
    """The recipe on every GPU that is known, as many of each as it asks for, in the order of their memory."""
    if not _needs_gpu(recipe):
        raise UsageError(f"builder '{recipe.engine.builder}' uses no GPU", fix="leave --gpu out")
    seen, draft, rows = glance(recipe.source), draft_of(recipe), []
    for gpu in sorted(gpus.load_gpus(), key=lambda g: g.memory_bytes):
        on = _on(recipe, gpu.name)
        device, container = fit.gpu_and_container(on)
        found = fit.plan_without_changes(seen.config, seen.weight_bytes, on, device, container, draft=draft)
        more = [*_driver_problems(device, container, driver), *_builder_problems(seen.config, on)]
        rows.append(GpuRow(gpu, _with_problems(found, more)))
    return rows


def draft_of(recipe: Recipe) -> fit.Draft | None:
    """The draft model that the recipe names, as far as its folder can be read here."""
    from enginepress.engines.architecture import read_shape
    from enginepress.engines.tool_runs import read_object

    named = fit.named_draft(recipe)
    if named is None:
        return None
    folder = Path(named.folder)
    if not (folder / "config.json").is_file():
        return replace(named, unseen=f"{folder} has no config.json on this machine")
    try:
        shape = read_shape(read_object(folder / "config.json"))
        weights = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    except (EnginepressError, OSError) as error:
        return replace(named, unseen=f"{folder}: {error}")
    return replace(named, shape=shape, weight_bytes=weights, unseen="")


def _needs_gpu(recipe: Recipe) -> bool:
    return versions.load_matrix().kind(recipe.engine.builder) is not None


def _on(recipe: Recipe, gpu: str | None) -> Recipe:
    if gpu is None:
        return recipe
    if not _needs_gpu(recipe):
        raise UsageError(f"builder '{recipe.engine.builder}' uses no GPU", fix="leave --gpu out")
    asked = recipe.engine.gpu
    named = asked.model_copy(update={"name": gpu}) if asked is not None else Gpu(name=gpu)
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"gpu": named})})


def _with_problems(found: fit.FitPlan, more: list[Problem]) -> fit.FitPlan:
    """With these problems as well, unless the plan tells them already: builders ask the same functions for what containers, GPUs
    and parallelism allow, and say in their own words what the plan says of the same field."""
    fields = {known.where for known in found.problems}
    new = [p for p in more if p.where not in fields and not any(known.message in p.message for known in found.problems)]
    return replace(found, problems=(*found.problems, *new))


def _driver_problems(gpu: gpus.Gpu, container: versions.Container, driver: str | None) -> list[Problem]:
    if driver is None:
        return []
    try:
        versions.check_driver(container, driver, gpu=gpu)
    except RecipeError as error:
        return [Problem(error.where or "--driver", error.message, error.fix or "")]
    return []


def _builder_problems(config: Mapping[str, Any], recipe: Recipe) -> list[Problem]:
    """What the builder itself has against the model or the recipe."""
    from enginepress.repository.plans import plan_models

    try:
        get_builder(recipe.engine.builder).check(config, recipe)
        plan_models(recipe)
    except EnginepressError as error:
        return [Problem(error.where or "engine.builder", error.message, error.fix or "")]
    return []


def _commands(config: Mapping[str, Any], recipe: Recipe) -> tuple[str, ...]:
    try:
        return tuple(shlex.join(line) for line in get_builder(recipe.engine.builder).commands(config, recipe))
    except EnginepressError:
        return ()
