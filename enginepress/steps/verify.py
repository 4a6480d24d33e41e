"""verify: validate the repository offline, then gate it: serve it with the real Triton and hold it against the recipe's checks.

    reports/<build key>-<checks digest>/<attempt>/   report.json, report.md, report.html, server.log

Every attempt is kept, passed or not; only one that passed counts as done. A release that was gated by these checks once, and
says so in its records, is not gated again.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from enginepress.errors import EnginepressError, GateError, WorkspaceError
from enginepress.files import explain_os_error, sync_tree
from enginepress.report import Report, write_report
from enginepress.repository.place import content_digest_of, unplaced, write_placement
from enginepress.repository.validate import validate
from enginepress.serving.gate import GateResult, run_gate
from enginepress.serving.reference import Reference, read_reference
from enginepress.steps.assemble import produce_repository
from enginepress.steps.job import Job, Plan
from enginepress.stores.open import open_store


def verify(job: Job, plan: Plan) -> dict[str, Any]:
    """Raises GateError or RepositoryError, naming every check that failed and the report."""
    if plan.release and open_store(job.recipe.stores[0]).read_record(job.recipe.name, plan.release, checks_record(plan)):
        return {"skipped": f"release {plan.release} was gated by these checks"}
    done = passed_attempt(job, plan)
    if done is not None:
        return {"folder": str(done), "skipped": "passed already"}
    with job.workspace.lock(f"reports-{reports_key(plan)}", about=f"gate of {job.recipe.name}"):
        folder = passed_attempt(job, plan) or _attempt(job, plan)
    return {"folder": str(folder)}


def reports_key(plan: Plan) -> str:
    return f"{plan.build_key}-{plan.checks_digest}"


def checks_record(plan: Plan) -> str:
    """The name of the record that a release keeps of having passed these checks."""
    return f"checks-{plan.checks_digest}"


def passed_attempt(job: Job, plan: Plan) -> Path | None:
    """The newest attempt that passed, or None."""
    attempts = job.workspace.path("reports", reports_key(plan)).glob("[0-9]*")
    for folder in sorted(attempts, key=lambda p: int(p.name), reverse=True):
        report = json.loads((folder / "report.json").read_text())
        if report["passed"]:
            return folder
    return None


def _attempt(job: Job, plan: Plan) -> Path:
    partial = job.workspace.path("partial", f"reports-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        report = _gate(job, plan, partial)
        write_report(report, partial)
        sync_tree(partial)
        folder = _keep(job, plan, partial)
    except OSError as error:
        raise explain_os_error(error, "writing the report", WorkspaceError) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not report.passed:
        raise GateError(report.failure(), where=str(folder / "report.html"), fix="open the report; nothing was published")
    return folder


def _keep(job: Job, plan: Plan, partial: Path) -> Path:
    """Renames the attempt into place under the next free number."""
    base = job.workspace.path("reports", reports_key(plan))
    base.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in base.glob("[0-9]*")), default=0)
    folder = base / str(number)
    os.rename(partial, folder)
    return folder


def _gate(job: Job, plan: Plan, folder: Path) -> Report:
    recipe = job.recipe
    scratch = folder / "scratch"
    try:
        repository = _unplaced_repository(job, plan, scratch / "unplaced")
        findings = validate(repository)
        result: GateResult | None = None
        error: EnginepressError | None = None
        if findings.ok and recipe.checks.served:
            job.note_progress("verify", "serving it with Triton")
            try:
                result = run_gate(repository, recipe, _reference(job, plan), folder=folder)
            except EnginepressError as problem:
                error = problem
        return Report(
            facts=build_facts(job, plan, content_digest_of(repository)),
            validation=findings.to_json(),
            gate=result.to_json() if result is not None else None,
            error=error.to_json() if error is not None else None,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _reference(job: Job, plan: Plan) -> Reference | None:
    content = job.recipe.checks.reference
    if content is None:
        return None
    assert isinstance(content, dict), "a recipe that travels holds the reference's content"
    reference = read_reference(content)
    if reference.revision != plan.revision:
        raise GateError(
            f"the reference was made from another revision ({reference.revision[:12]}) than this build ({plan.revision[:12]})",
            where="checks.reference",
            fix="make it anew with `enginepress reference RECIPE`",
        )
    return reference


def _unplaced_repository(job: Job, plan: Plan, scratch: Path) -> Path:
    """The repository as assembled; of a release that is there already, as it was before it got its number."""
    if not plan.release:
        return produce_repository(job, plan).folder
    store = open_store(job.recipe.stores[0])
    write_placement(unplaced(store.repository(job.recipe.name, plan.release)), scratch, link="symlink")
    return scratch


def build_facts(job: Job, plan: Plan, content_digest: str) -> dict[str, Any]:
    """What the report says about what was built, from what, and how long each step took."""
    seconds = {}
    for step, (kind, key) in plan.outputs().items():
        output = job.workspace.find(kind, key)
        if output is not None:
            seconds[step] = output.record["seconds"]
    return {
        "name": job.recipe.name,
        "source": job.recipe.source.uri,
        "revision": plan.revision_id,
        "revision_digest": plan.revision,
        "engine": job.recipe.engine.model_dump(mode="json"),
        "environment": dict(plan.inputs["environment"]),
        "build_key": plan.build_key,
        "checks_digest": plan.checks_digest,
        "content_digest": content_digest,
        "step_seconds": seconds,
    }
