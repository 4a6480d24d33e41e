"""download: the checkpoint of the plan's revision, every file verified against the digest that its source published."""

from __future__ import annotations

import time
from typing import Any

from enginepress.errors import WorkspaceError
from enginepress.sources import Revision
from enginepress.sources.download import download_checkpoint
from enginepress.sources.open import open_source
from enginepress.steps.job import Job, Plan
from enginepress.workspace import Output


def download(job: Job, plan: Plan) -> dict[str, Any]:
    if plan.release:
        return {"skipped": f"release {plan.release} is built already"}
    checkpoint = produce_checkpoint(job, plan.revision)
    return {"folder": str(checkpoint.folder), "bytes": checkpoint.record["bytes"], "files": len(checkpoint.record["files"])}


def produce_checkpoint(job: Job, revision_digest: str) -> Output:
    """The checkpoint in the workspace, downloaded if it is not there."""
    workspace = job.workspace
    data = workspace.read_json("revisions", f"{revision_digest}.json")
    if data is None:
        raise WorkspaceError(
            "does not know this revision",
            where=str(workspace.path("revisions", f"{revision_digest}.json")),
            fix="all steps of a run need one workspace; run the recipe again",
        )
    revision = Revision.from_json(data)
    total = sum(f.size for f in revision.files)

    def work(output: Any) -> dict[str, Any]:
        source = open_source(job.recipe.source, cache=workspace.path("cache"))
        last = 0.0

        def progress(path: str, done: int, size: int) -> None:
            nonlocal last
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                job.note_progress("download", f"{path}: {done / 1e6:,.1f} of {size / 1e6:,.1f} MB")

        files = download_checkpoint(
            source, revision, output, partial_store=workspace.path("partial", "checkpoint-files"), progress=progress
        )
        return {
            "source": revision.source,
            "revision": revision.id,
            "bytes": total,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files],
        }

    return workspace.produce("checkpoints", revision.digest, work, about=f"download of {job.recipe.source.uri}")
