"""Runs one step as a task of a pipeline, in a process of its own.

The task checks that the recipe arrived as it was sent, dies when the process that runs the pipeline dies, and leaves how it
ended in the workspace: kfp's local runner tells its caller only that an inner task failed.

    runs/<run>/<step>.json   {"step": "build", "status": "running|done|failed", "seconds": 7.1, "facts": {…}, "error": {…}}
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from enginepress.canonical import parameter_json
from enginepress.errors import EnginepressError
from enginepress.process import die_with
from enginepress.recipe_file import recipe_from_json
from enginepress.steps.job import Job, Plan
from enginepress.workspace import Workspace

OWNER = "ENGINEPRESS_OWNER"
"""Environment variable with the `process.identity` of the process that runs the pipeline, if it runs on this machine."""

RUN = "ENGINEPRESS_RUN"
"""Environment variable that names the run; on a cluster the pipeline's own id does."""

Result = TypeVar("Result")
Step = Callable[[Job, Plan], dict[str, Any]]


def resolve_task(recipe: str, recipe_digest: str, run: str, force: bool) -> str:
    """The first task: makes the plan. Returns it as JSON."""
    from enginepress.steps.resolve import resolve

    job = _job(recipe, recipe_digest, os.environ.get(RUN, run))
    plan = _recorded(job, "resolve", lambda: resolve(job, force=force))
    return plan.to_json()


def step_task(name: str, step: Step, recipe: str, recipe_digest: str, plan: str) -> str:
    """Every other task. Returns the step's facts as JSON."""
    the_plan = Plan.from_json(plan)
    job = _job(recipe, recipe_digest, the_plan.run)
    return parameter_json(_recorded(job, name, lambda: step(job, the_plan)))


def _job(recipe: str, recipe_digest: str, run: str) -> Job:
    if owner := os.environ.get(OWNER):
        die_with(owner)
    return Job(recipe_from_json(recipe, recipe_digest), Workspace.from_environment(), run)


def _recorded(job: Job, name: str, work: Callable[[], Result]) -> Result:
    """Runs a step and leaves how it ended. A step that fails ends its process: kfp needs no more than that."""
    started = time.time()
    record: dict[str, Any] = {"step": name, "status": "running", "started": started}

    def leave(**more: Any) -> None:
        job.workspace.write_json({**record, "seconds": round(time.time() - started, 3), **more}, "runs", job.run, f"{name}.json")

    leave()
    try:
        result = work()
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
    return result
