"""assemble: engine and checkpoint to a model repository, unplaced."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from enginepress.files import content_digest
from enginepress.pieces import as_record, digests_of_folder
from enginepress.repository.assemble import assemble as assemble_repository
from enginepress.repository.place import unplaced_entries
from enginepress.steps.build import produce_engine
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job, Plan
from enginepress.workspace import Output


def assemble(job: Job, plan: Plan) -> dict[str, Any]:
    if plan.release:
        return {"skipped": f"release {plan.release} is built already"}
    repository = produce_repository(job, plan)
    return {"folder": str(repository.folder), "content_digest": repository.record["content_digest"]}


def produce_repository(job: Job, plan: Plan) -> Output:
    def work(output: Path) -> dict[str, Any]:
        engine = produce_engine(job, plan).folder
        checkpoint = produce_checkpoint(job, plan.revision).folder
        assemble_repository(engine=engine, checkpoint=checkpoint, recipe=job.recipe, output=output)
        digests = digests_of_folder(output)
        files = unplaced_entries(output, known={path: found.entry(path) for path, found in digests.items()})
        return {
            "engine": plan.engine_key,
            "inputs": dict(plan.inputs),
            "content_digest": content_digest(files),
            "files": [asdict(f) for f in files],
            "pieces": as_record(digests),
        }

    return job.workspace.produce("repositories", plan.build_key, work, about=f"assembly of {job.recipe.name}")
