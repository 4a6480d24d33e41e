"""verify: validate the repository offline, then gate it: serve it with the real Triton and hold it against the recipe's checks.

    reports/<build key>-<checks digest>/<attempt>/   report.json, report.md, report.html, server.log

Every attempt is kept, passed or not; only one that passed counts as done. A release that was gated by these checks once, and
says so in its records, is not gated again.

The reference that answers are compared with is the file that the recipe names; without one, what the release on the recipe's
first channel answers now; without that, nothing, and the report says so.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, GateError, RecipeError, WorkspaceError
from enginepress.files import explain_os_error, sync_tree
from enginepress.recipe import Recipe
from enginepress.repository.place import content_digest_of
from enginepress.repository.validate import validate
from enginepress.serving.gate import run_gate
from enginepress.serving.gate_result import GateResult
from enginepress.serving.live_reference import live_reference
from enginepress.serving.reference import Reference, read_reference
from enginepress.steps.assemble import produce_repository
from enginepress.steps.job import Job, Plan
from enginepress.steps.release_folder import release_folder
from enginepress.steps.report import Report, write_report
from enginepress.stores.open import open_store


@dataclass(frozen=True)
class Attempt:
    """One gate, passed or not: its folder in `reports/` and its report."""

    folder: Path
    report: Report


def verify(job: Job, plan: Plan) -> dict[str, Any]:
    """Raises GateError, naming every check that failed and the report."""
    if plan.release and open_store(job.recipe.stores[0]).read_record(job.recipe.name, plan.release, checks_record(plan)):
        return {"skipped": f"release {plan.release} was gated by these checks"}
    if (done := passed_attempt(job, plan)) is not None:
        return {"folder": str(done.folder), "skipped": "passed already"}
    with job.workspace.lock(f"reports-{reports_key(plan)}", about=f"gate of {job.recipe.name}"):
        made = passed_attempt(job, plan) or attempt(job, plan, repository_of(job, plan))
    if not made.report.passed:
        fix = "open the report; nothing was published"
        if made.report.gate is None and made.report.error is not None and job.recipe.engine.gpu is not None:
            fix += f". It is served by {get_builder(job.recipe.engine.builder).served_by(job.recipe)[0]}: verify it there"
        raise GateError(made.report.failure, where=str(made.folder / "report.html"), fix=fix)
    return {"folder": str(made.folder)}


def reports_key(plan: Plan) -> str:
    return f"{plan.build_key}-{plan.checks_digest}"


def checks_record(plan: Plan) -> str:
    """The name of the record that a release keeps of having passed these checks."""
    return f"checks-{plan.checks_digest}"


def check_reference(recipe: Recipe, revision_digest: str) -> Reference | None:
    """The recipe's reference, if it has one.

    Raises:
        RecipeError: if it was made from other bytes than are to be built.
    """
    content = recipe.checks.reference
    if content is None:
        return None
    assert isinstance(content, dict), "a recipe that travels holds the reference's content"
    reference = read_reference(content)
    if reference.revision != revision_digest:
        raise RecipeError(
            f"was made from another revision ({reference.revision[:12]}) than this build ({revision_digest[:12]})",
            where="checks.reference",
            fix="make it anew with `enginepress reference RECIPE`",
        )
    return reference


def passed_attempt(job: Job, plan: Plan) -> Attempt | None:
    """The newest attempt that passed, or None. One whose report cannot be read any more shows nothing."""
    attempts = job.workspace.path("reports", reports_key(plan)).glob("[0-9]*")
    for folder in sorted(attempts, key=lambda p: int(p.name), reverse=True):
        try:
            report = Report.from_json(json.loads((folder / "report.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if report.passed:
            return Attempt(folder, report)
    return None


def repository_of(job: Job, plan: Plan) -> Path:
    """What is to be gated: the repository as assembled, or the release that is there already."""
    if plan.release:
        return release_folder(open_store(job.recipe.stores[0]), job.recipe.name, plan.release, job.workspace)
    return produce_repository(job, plan).folder


def attempt(job: Job, plan: Plan, repository: Path) -> Attempt:
    """Gates once and keeps the report, whatever it says. Called under the lock of these reports."""
    partial = job.workspace.path("partial", f"reports-{reports_key(plan)}-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        folder = _next_folder(job, plan)
        report = _gate(job, plan, repository, partial, kept_as=folder)
        write_report(report, partial)
        sync_tree(partial)
        os.rename(partial, folder)
        return Attempt(folder, report)
    except OSError as error:
        raise explain_os_error(error, "writing the report", WorkspaceError) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _next_folder(job: Job, plan: Plan) -> Path:
    """Where this attempt will lie; the lock keeps others from taking the number."""
    base = job.workspace.path("reports", reports_key(plan))
    base.mkdir(parents=True, exist_ok=True)
    return base / str(1 + max((int(p.name) for p in base.glob("[0-9]*")), default=0))


def _gate(job: Job, plan: Plan, repository: Path, folder: Path, *, kept_as: Path) -> Report:
    recipe = job.recipe
    findings = validate(repository)
    result: GateResult | None = None
    error: EnginepressError | None = None
    if findings.ok and recipe.checks.served:
        try:
            reference, live = _reference(job, plan, folder)
            job.note_progress("verify", "serving it with Triton")
            result = run_gate(repository, recipe, reference, folder=folder, live=live)
        except EnginepressError as problem:
            error = problem
    return Report(
        facts=build_facts(job, plan, content_digest_of(repository)),
        validation=findings.to_json(),
        gate=result,
        error=_moved(error.to_json(), folder, kept_as) if error is not None else None,
        served=recipe.checks.served,
    )


def _moved(error: dict[str, Any], folder: Path, kept_as: Path) -> dict[str, Any]:
    """The error with the log's path as it will be when the attempt is kept."""
    return {k: v.replace(str(folder), str(kept_as)) if isinstance(v, str) else v for k, v in error.items()}


def _reference(job: Job, plan: Plan, folder: Path) -> tuple[Reference | None, str]:
    """What to compare with, and what to say about it if it is not the recipe's file."""
    recipe = job.recipe
    reference = check_reference(recipe, plan.revision)
    if reference is not None or not recipe.channels or not recipe.checks.prompts:
        return reference, ""
    store = open_store(recipe.stores[0])
    number = store.channel(recipe.name, recipe.channels[0])
    if number is None or number == plan.release:
        return None, ""
    job.note_progress("verify", f"asking release {number}, which is on {recipe.channels[0]}")
    try:
        answers = live_reference(release_folder(store, recipe.name, number, job.workspace), recipe, folder=folder)
    except GateError as error:
        # An engine of another container or GPU: that must not keep its successor from being published.
        return None, f"release {number} on {recipe.channels[0]} cannot be asked here: {error.message}"
    return answers, f"release {number} on channel {recipe.channels[0]}"


def build_facts(job: Job, plan: Plan, content_digest: str) -> dict[str, Any]:
    """What the report says about what was built, from what, and how long each step took."""
    outputs = {step: job.workspace.find(kind, key) for step, (kind, key) in plan.outputs().items()}
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
        "step_seconds": {step: output.record["seconds"] for step, output in outputs.items() if output is not None},
    }
