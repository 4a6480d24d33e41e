"""build: the engine. What the build key declared is compared with what is installed here before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.engines import get_builder
from enginepress.errors import BuildError
from enginepress.steps.convert import build_source
from enginepress.steps.job import Job, Plan
from enginepress.steps.scratch_output import scratch_output
from enginepress.workspace import Output


def build(job: Job, plan: Plan) -> dict[str, Any]:
    if plan.release:
        return {"skipped": f"release {plan.release} is built already"}
    engine = produce_engine(job, plan)
    return {"folder": str(engine.folder), "seconds": engine.record["seconds"], "bytes": engine.record["bytes"]}


def produce_engine(job: Job, plan: Plan) -> Output:
    builder = get_builder(job.recipe.engine.builder)

    def work(output: Path) -> dict[str, Any]:
        environment = builder.installed(job.recipe)
        check_environment(plan.build_inputs().environment, environment)
        source = build_source(job, plan)
        job.note_progress("build", f"{builder.name} builds a {job.recipe.engine.precision} engine")
        with scratch_output(output, builder.name) as place:
            builder.build(source, place, job.recipe, job.log("build"))
        size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
        return {
            "builder": builder.name,
            "checkpoint": plan.revision,
            "environment": environment,
            "bytes": size,
            **builder.record(job.recipe),
        }

    return job.workspace.produce("engines", plan.engine_key, work, about=f"build of {job.recipe.name}")


def check_environment(declared: Any, installed: dict[str, str]) -> None:
    """Raises BuildError if the packages here are not those that the build key was made of."""
    different = sorted(k for k in {*declared, *installed} if declared.get(k) != installed.get(k))
    if different:
        listed = "; ".join(f"{k} is {installed.get(k, 'missing')}, planned was {declared.get(k, 'none')}" for k in different)
        raise BuildError(
            f"this environment is not the one that the plan was made for: {listed}",
            fix="run resolve and build in the same image, or run the recipe again",
        )
