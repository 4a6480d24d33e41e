"""Runs one step as a task of a pipeline, in a process of its own.

The task checks that the recipe arrived as it was sent, dies when the process that runs the pipeline dies, and leaves how it
ended in the workspace: kfp's local runner tells its caller only that an inner task failed.

    runs/<run>/<step>.json   {"step": "build", "status": "running|done|failed", "seconds": 7.1, "facts": {…}, "error": {…}}

On a cluster a run builds many recipes at once, so a folder is called <pipeline's own id>-<recipe's name>-<start of its digest>.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

# What loads pydantic and more is imported by the functions: loading what a step uses is part of the step's work, and its
# clock starts when the function is called.
if TYPE_CHECKING:
    from enginepress.recipe import Recipe
    from enginepress.steps.job import Job, Plan
    from enginepress.steps.pods import Pod

OWNER = "ENGINEPRESS_OWNER"
"""Environment variable with the `process.identity` of the process that runs the pipeline, if it runs on this machine."""

RUN = "ENGINEPRESS_RUN"
"""Environment variable that names the run; on a cluster the pipeline's own id does."""


def resolve_task(
    recipe: str,
    recipe_digest: str,
    run: str,
    force: bool,
    image: str = "",
    gpu_image: str = "",
    gpu_resource: str = "",
    gpu_count: int = 0,
    gpu_nodes: Mapping[str, Any] | None = None,
    registry: str = "",
    **outputs: Any,
) -> tuple[Any, ...]:
    """The first task: makes the plan. Returns it as JSON, and after it what the pods of convert, build and verify ask for,
    field by field as `steps.pods.Pod` has them.

    Args:
        outputs: what people look at (`steps.shown`).
    """
    started = time.time()
    from enginepress.steps.pods import GPU_STEPS, WHOLE_GPU, Wishes, check_compiled, pods_for

    wishes = Wishes(image, gpu_image, gpu_resource or WHOLE_GPU, int(gpu_count), dict(gpu_nodes or {}))
    pods: dict[str, Pod] = {}

    def work(job: Job) -> Plan:
        from enginepress.steps.resolve import resolve

        check_compiled(job.recipe)
        plan = replace(resolve(job, force=force), registry=registry)
        pods.update(pods_for(job, plan, wishes))
        return plan

    job = _job(recipe, recipe_digest, registry, pipeline_run=run)
    plan: Plan = _recorded(job, "resolve", work, started, outputs)
    return plan.to_json(), *(getattr(pods[step], f.name) for step in GPU_STEPS for f in fields(pods[step]))


def step_task(name: str, recipe: str, recipe_digest: str, plan: str, **outputs: Any) -> str:
    """Every other task: calls the function `name` of `enginepress.steps.<name>`. Returns the step's facts as JSON.

    Args:
        outputs: what people look at (`steps.shown`).
    """
    started = time.time()
    from enginepress.canonical import parameter_json
    from enginepress.steps.job import Plan

    the_plan = Plan.from_json(plan)

    def work(job: Job) -> dict[str, Any]:
        step: Callable[[Job, Plan], dict[str, Any]] = getattr(importlib.import_module(f"enginepress.steps.{name}"), name)
        return step(job, the_plan)

    job = _job(recipe, recipe_digest, the_plan.registry, run=the_plan.run)
    return parameter_json(_recorded(job, name, work, started, outputs, the_plan))


def report_task(run: str, state: str, error: str, *, summary: str, failed_gate: str) -> None:
    """The exit handler: how a run ended, and the report of a gate that failed. How it ended stands in the task's log, too, where
    `submit` finds it.

    Args:
        summary, failed_gate: files to write, as Markdown and as HTML.
    """
    from enginepress.steps.failed_gate import failed_gate_page
    from enginepress.steps.run_report import in_log, run_report
    from enginepress.workspace import Workspace

    _settle()
    workspace, name = Workspace.from_environment(), os.environ.get(RUN, run)
    _write(failed_gate, failed_gate_page(workspace, name))
    text = run_report(workspace, name, state, error)
    print(in_log(text))
    _write(summary, text)


def find_changed_task(folder: str, run: str, retry_failed: bool = False, *, summary: str) -> list[dict[str, str]]:
    """The first task of a scheduled rebuild: the recipes of a folder that are to be built, each as the parameters `recipe` and
    `recipe_digest` of build_and_publish.

    Args:
        retry_failed: also those that failed before and are held back.
        summary: file to write, as Markdown: what is to be built and why, and what cannot be.
    """
    from enginepress.errors import EnginepressError
    from enginepress.steps.changes_markdown import changes_markdown
    from enginepress.steps.find_changed import find_changed
    from enginepress.steps.run_report import FIND_CHANGED
    from enginepress.workspace import Workspace

    _settle()
    workspace, name = Workspace.from_environment(), os.environ.get(RUN, run)
    try:
        found = find_changed(folder, workspace, name, retry_failed=retry_failed)
    except EnginepressError as error:
        print(f"find_changed: {error}" + (f"\nnext: {error.fix}" if error.fix else ""), file=sys.stderr)
        with contextlib.suppress(EnginepressError):  # the workspace itself may be what failed
            workspace.write_json({"step": FIND_CHANGED, "error": error.to_json()}, "runs", name, f"{FIND_CHANGED}.json")
        sys.exit(1)
    changes = workspace.read_json("runs", name, "changed.json") or []
    _write(summary, "\n".join(["# Recipes", "", *changes_markdown(changes)]))
    return found


def conclude_task(run: str, *, summary: str) -> None:
    """The last task of a scheduled rebuild, when all has been built that could be: fails if a recipe is not well.

    Args:
        summary: file to write, as Markdown.
    """
    from enginepress.errors import EnginepressError
    from enginepress.steps.conclude import conclude
    from enginepress.workspace import Workspace

    _settle()
    try:
        said = conclude(Workspace.from_environment(), os.environ.get(RUN, run))
    except EnginepressError as error:
        print(f"conclude: {error}" + (f"\nnext: {error.fix}" if error.fix else ""), file=sys.stderr)
        sys.exit(1)
    print(said)
    _write(summary, f"# Recipes\n\n{said}\n")


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def _settle() -> None:
    from enginepress.cluster import Cluster
    from enginepress.process import die_with

    if owner := os.environ.get(OWNER):
        die_with(owner)
    if (cluster := Cluster.from_environment()) is not None:
        cluster.settle()


def _job(recipe: str, recipe_digest: str, registry: str, *, run: str = "", pipeline_run: str = "") -> Job:
    from enginepress.steps.job import Job
    from enginepress.steps.travelling import arrived_recipe
    from enginepress.workspace import Workspace

    _settle()
    workspace = Workspace.from_environment()
    arrived = arrived_recipe(recipe, recipe_digest, workspace)
    return Job(_registered(arrived, registry), workspace, run or _run_of(arrived, pipeline_run))


def _run_of(recipe: Recipe, pipeline_run: str) -> str:
    """The name of the run's folder, by which later steps know it from the plan."""
    from enginepress.steps.job import run_name

    return os.environ.get(RUN) or run_name(pipeline_run, recipe)


def _registered(recipe: Recipe, registry: str) -> Recipe:
    """With the run's registry, where the recipe names none."""
    if not registry or recipe.registry.tracking_uri is not None:
        return recipe
    return recipe.model_copy(update={"registry": recipe.registry.model_copy(update={"tracking_uri": registry})})


def _recorded(
    job: Job,
    name: str,
    work: Callable[[Job], Any],
    started: float,
    outputs: Mapping[str, Any],
    plan: Plan | None = None,
) -> Any:
    """Runs a step and leaves how it ended, and what people look at. A step that fails ends its process: kfp needs no more than
    that."""
    from enginepress.errors import EnginepressError
    from enginepress.steps.job import Plan

    _stop_repeating(job, name)
    record: dict[str, Any] = {"step": name, "status": "running", "started": started}

    def leave(**more: Any) -> None:
        job.workspace.write_json({**record, "seconds": round(time.time() - started, 3), **more}, "runs", job.run, f"{name}.json")

    leave()
    try:
        result = work(job)
    except EnginepressError as error:
        print(f"{name}: {error}", file=sys.stderr)
        leave(status="failed", error=error.to_json(), exit_status=error.exit_status, final=error.final)
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
    made = result if isinstance(result, Plan) else plan
    if outputs and made is not None:
        from enginepress.steps import shown

        shown.leave(name, job, made, facts, outputs)
        leave(status="done", facts=facts)  # its seconds are those until now
    # The process ends now; what mlflow alone loaded would be searched for garbage for half a second.
    gc.freeze()
    return result


def _stop_repeating(job: Job, name: str) -> None:
    """Ends a step that Kubeflow tries again within one run although trying again cannot help. A step that was killed has left
    `running`, so it is done again."""
    before = job.workspace.read_json("runs", job.run, f"{name}.json")
    if before is not None and before["status"] == "failed" and before.get("final"):
        print(
            f"{name}: {before['error']['message']} (this was said before, and trying again does not change it)", file=sys.stderr
        )
        sys.exit(1)
