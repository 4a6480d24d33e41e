"""convert: checkpoint to the form that the builder's own tool reads. Builders that read checkpoints pass through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.engines import get_builder
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job, Plan
from enginepress.steps.scratch_output import scratch_output


def convert(job: Job, plan: Plan) -> dict[str, Any]:
    if plan.release:
        return {"skipped": f"release {plan.release} is built already"}
    builder = get_builder(job.recipe.engine.builder)
    if not builder.converts(job.recipe):
        return {"skipped": f"{builder.name} reads checkpoints as they are"}
    return {"folder": str(build_source(job, plan))}


def build_source(job: Job, plan: Plan) -> Path:
    """What the builder builds from: the converted checkpoint, or the checkpoint itself."""
    builder = get_builder(job.recipe.engine.builder)
    checkpoint = produce_checkpoint(job, plan.revision)
    if not builder.converts(job.recipe):
        return checkpoint.folder

    def work(output: Path) -> dict[str, Any]:
        with scratch_output(output, builder.name) as place:
            builder.convert(checkpoint.folder, place, job.recipe, job.log("convert"))
        return {"checkpoint": plan.revision, "environment": builder.declared(job.recipe)}

    return job.workspace.produce("converted", plan.engine_key, work, about=f"conversion of {job.recipe.name}").folder
