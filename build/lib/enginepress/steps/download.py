"""download: the checkpoint of the plan's revision, every file verified against the digest that its source published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from enginepress.errors import SourceError, WorkspaceError
from enginepress.recipe import Recipe
from enginepress.sources import Revision
from enginepress.sources.download import download_checkpoint
from enginepress.sources.model_config import read_model_config
from enginepress.sources.open import open_source
from enginepress.sources.seen import demanding, remember_digests
from enginepress.sources.transfer.hashes import MISMATCH
from enginepress.steps.job import Job, Plan
from enginepress.steps.meter import Meter
from enginepress.steps.revision import check_record, known_digests, revision_of
from enginepress.workspace import Output


def download(job: Job, plan: Plan) -> dict[str, Any]:
    if plan.release:
        return {"skipped": f"release {plan.release} is built already"}
    checkpoint = produce_checkpoint(job, plan.revision)
    return {"folder": str(checkpoint.folder), "bytes": checkpoint.record["bytes"], "files": len(checkpoint.record["files"])}


def produce_checkpoint(job: Job, revision_digest: str) -> Output:
    """The checkpoint in the workspace, downloaded if it is not there."""
    workspace, recipe, cache = job.workspace, job.recipe, job.workspace.path("cache")
    data = workspace.read_json("revisions", f"{revision_digest}.json")
    if data is None:
        raise WorkspaceError(
            "does not know this revision",
            where=str(workspace.path("revisions", f"{revision_digest}.json")),
            fix="all steps of a run need one workspace; run the recipe again",
        )

    def work(output: Any) -> dict[str, Any]:
        source = open_source(recipe.source, cache=cache)
        revision = Revision.from_json(data)
        if revision.source != source.uri:
            # Another recipe has the same bytes from another source, and was resolved after this one.
            revision = revision_of(recipe, cache)
        last, meter = 0.0, Meter(sum({f.digest.value: f.size for f in revision.files}.values()))

        def progress(path: str, done: int, size: int) -> None:
            nonlocal last
            meter.note(path, done)
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                job.note_progress("download", str(meter))

        known = known_digests(recipe, revision, cache)
        try:
            files = download_checkpoint(
                source,
                demanding(revision, known),
                output,
                partial_store=workspace.path("partial", "checkpoint-files"),
                progress=progress,
                bytes_per_second=recipe.source.bandwidth_mb_s and recipe.source.bandwidth_mb_s * 1e6,
            )
        except SourceError as error:
            raise _who_demands(error, recipe, revision, known) from None
        remember_digests(cache, revision, files)
        return {
            "source": revision.source,
            "revision": revision.id,
            "bytes": sum(f.size for f in revision.files),
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files],
            "model": read_model_config(output / "config.json").to_json(),
            "code": [f.path for f in files if f.path.endswith(".py")],
        }

    done = workspace.produce("checkpoints", revision_digest, work, about=f"download of {recipe.source.uri}")
    check_record(recipe, done.record, where=done.folder.parent)
    return done


def _who_demands(error: SourceError, recipe: Recipe, revision: Revision, known: Mapping[str, str]) -> SourceError:
    """A digest that the source did not publish is not called published: the message says who demands it."""
    path = next((f.path for f in revision.files if (error.where or "").endswith(f"/{f.path}")), "")
    file = next((f for f in revision.files if f.path == path), None)
    if file is None or path not in known or file.digest.value == known[path] or MISMATCH[0] not in error.message:
        return error
    if path in recipe.source.digests:
        who, fix = "source.digests demands", "find out which is right before you change the recipe"
    elif recipe.source.lock is not None:
        who, fix = "its lock says", "take what the source has now with `enginepress lock RECIPE`"
    else:
        who, fix = "came when it was first fetched", "ask its owner; `source.digests` in the recipe settles which is right"
    return SourceError(error.message.replace(MISMATCH[0], f"is not what {who}"), where=error.where, fix=fix)
