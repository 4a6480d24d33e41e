"""Runs one step as a task of a pipeline, in a process of its own.

The task checks that the recipe arrived as it was sent, dies when the process that runs the pipeline dies, and leaves how it
ended in the workspace: kfp's local runner tells its caller only that an inner task failed.

    runs/<run>/<step>.json   {"step": "build", "status": "running|done|failed", "seconds": 7.1, "facts": {…}, "error": {…}}
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

# What loads pydantic and more is imported by the functions: loading what a step uses is part of the step's work, and its
# clock starts when the function is called.
if TYPE_CHECKING:
    from enginepress.steps.job import Job, Plan

OWNER = "ENGINEPRESS_OWNER"
"""Environment variable with the `process.identity` of the process that runs the pipeline, if it runs on this machine."""

RUN = "ENGINEPRESS_RUN"
"""Environment variable that names the run; on a cluster the pipeline's own id does."""


def resolve_task(recipe: str, recipe_digest: str, run: str, force: bool) -> str:
    """The first task: makes the plan. Returns it as JSON."""

    def work(job: Job) -> Plan:
        from enginepress.steps.resolve import resolve

        return resolve(job, force=force)

    started = time.time()
    plan: Plan = _recorded(_job(recipe, recipe_digest, os.environ.get(RUN, run)), "resolve", work, started)
    return plan.to_json()


def step_task(name: str, recipe: str, recipe_digest: str, plan: str) -> str:
    """Every other task: calls the function `name` of `enginepress.steps.<name>`. Returns the step's facts as JSON."""
    started = time.time()
    from enginepress.canonical import parameter_json
    from enginepress.steps.job import Plan

    the_plan = Plan.from_json(plan)

    def work(job: Job) -> dict[str, Any]:
        step: Callable[[Job, Plan], dict[str, Any]] = getattr(importlib.import_module(f"enginepress.steps.{name}"), name)
        return step(job, the_plan)

    return parameter_json(_recorded(_job(recipe, recipe_digest, the_plan.run), name, work, started))


def _job(recipe: str, recipe_digest: str, run: str) -> Job:
    from enginepress.process import die_with
    from enginepress.recipe_file import recipe_from_json
    from enginepress.steps.job import Job
    from enginepress.workspace import Workspace

    if owner := os.environ.get(OWNER):
        die_with(owner)
    return Job(recipe_from_json(recipe, recipe_digest), Workspace.from_environment(), run)


def _recorded(job: Job, name: str, work: Callable[[Job], Any], started: float) -> Any:
    """Runs a step and leaves how it ended. A step that fails ends its process: kfp needs no more than that."""
    from enginepress.errors import EnginepressError
    from enginepress.steps.job import Plan

    record: dict[str, Any] = {"step": name, "status": "running", "started": started}

    def leave(**more: Any) -> None:
        job.workspace.write_json({**record, "seconds": round(time.time() - started, 3), **more}, "runs", job.run, f"{name}.json")

    leave()
    try:
        result = work(job)
    except EnginepressError as error:
        print(f"{name}: {error}", file=sys.stderr)
        leave(status="failed", error=error.to_json(), exit_status=error.exit_status)
        sys.exit(1)
    except Exception as error:
        trace = traceback.format_exc()
        print(trace, file=sys.stderr)
        leave(
            status="failed", error={"type": "bug", "message": f"{type(error).__name__}: {error}", "trace": trace}, exit_status=1
        )
        sys.exit(1)
    facts = asdict(result) if isinstance(result, Plan) else result
    leave(status="done", facts=facts)
    # The process ends now; what mlflow alone loaded would be searched for garbage for half a second.
    gc.freeze()
    return result
