"""Runs the pipeline on this machine, through kfp's local runner.

Only the up-to-date check runs in process: it reads the source and the stores' small records and imports neither kfp nor
mlflow. If there is work, the pipeline is compiled to YAML and that YAML is run, each task in a process of its own.

What kfp's local runner does not do for us (measured with kfp 2.17):
- it deletes its own workspace folder after each run, so it never learns ours: tasks find it by their environment;
- its tasks outlive it when it is killed: they watch this process and end with it (`steps.task.OWNER`);
- its error says only that a task failed: the tasks leave their errors in `runs/<run>/`, and they are read back here;
- it leaves its tasks' programs in the temporary folder: they get one of ours, which is removed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enginepress.errors import BuildError, EnginepressError, error_from_json
from enginepress.process import identity, last_lines
from enginepress.recipe import Recipe
from enginepress.recipe_file import check_secrets, travelling_json
from enginepress.run.compiled import compile_pipeline, local_options
from enginepress.scratch import scratch_folder
from enginepress.steps import STEPS
from enginepress.steps.job import Plan
from enginepress.steps.outstanding import channel_notes, outstanding
from enginepress.steps.resolve import plan_of
from enginepress.steps.task import OWNER, RUN
from enginepress.workspace import ENVIRONMENT, Workspace

KEPT_RUNS = 50
"""Folders in `runs/` that are kept."""

Follow = Callable[[str, str, str], None]
"""Called with a step's name, its status (`running`, `done`, `failed`) and what it says."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        up_to_date: nothing was to do, and nothing was done.
        release: the number in the primary store.
        steps: each step's record (`steps.task`), in order.
        notes: what the user should know, such as a channel that an operator keeps elsewhere.
    """

    up_to_date: bool
    release: int
    plan: Plan
    run: str = ""
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_recipe(
    recipe: Recipe,
    workspace: Workspace,
    *,
    force: bool = False,
    wait: bool = True,
    on_wait: Callable[[str], None] | None = None,
    follow: Follow | None = None,
) -> RunResult:
    """Builds and publishes a recipe, or finds that nothing is to do.

    Args:
        force: convert, build, assemble and gate again even if that was done; downloads are kept.
        wait: False to refuse instead of waiting for another run of this recipe.

    Raises:
        EnginepressError: what the first failing step raised; LockedError if another run is at it and `wait` is False.
    """
    check_secrets(recipe)
    run = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    if not force and (done := _up_to_date(recipe, workspace, run)):
        workspace.sweep()
        return done
    workspace.check_writable()
    with workspace.lock(f"run-{recipe.name}", about=f"a run of {recipe.name}", wait=wait, on_wait=on_wait):
        if not force and (done := _up_to_date(recipe, workspace, run)):
            return done
        done = _run_pipeline(recipe, workspace, run, force, follow)
        workspace.sweep()
        return done


def _up_to_date(recipe: Recipe, workspace: Workspace, run: str) -> RunResult | None:
    plan, _ = plan_of(recipe, workspace.path("cache"), run)
    if outstanding(recipe, plan):
        return None
    return RunResult(up_to_date=True, release=plan.release, plan=plan, notes=channel_notes(recipe, plan))


def _run_pipeline(recipe: Recipe, workspace: Workspace, run: str, force: bool, follow: Follow | None) -> RunResult:
    folder = workspace.path("runs", run)
    folder.mkdir(parents=True)
    _forget_old_runs(workspace)
    started = datetime.datetime.now()
    with scratch_folder("run") as scratch:
        environment = {
            ENVIRONMENT: str(workspace.root.resolve()),
            OWNER: identity(),
            RUN: run,
            "TMPDIR": str(scratch),
        }
        with _following(folder, follow), _environment(environment):
            failure = _kfp_run(recipe, folder, scratch / "kfp", force)
    steps = [r for s in STEPS if (r := workspace.read_json("runs", run, f"{s}.json")) is not None]
    if failure is not None:
        raise _explained(failure, steps, folder)
    seconds = (datetime.datetime.now() - started).total_seconds()
    plan = replace(Plan(**steps[0]["facts"]), release=steps[-1]["facts"]["release"])
    instead = [f"{plan.lost}; release {plan.release} stands in its stead"] if plan.lost else []
    return RunResult(
        up_to_date=False,
        release=plan.release,
        plan=plan,
        run=run,
        seconds=seconds,
        steps=steps,
        notes=[*instead, *channel_notes(recipe, plan)],
    )


def _kfp_run(recipe: Recipe, folder: Path, root: Path, force: bool) -> Exception | None:
    """Compiles the pipeline and runs what was compiled. Everything that kfp and the tasks print goes to a log. What a cluster
    would be asked for (images, memory, GPUs) means nothing here, and kfp warns of each."""
    with open(folder / "pipeline.log", "a", buffering=1) as log, contextlib.redirect_stdout(log), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import components, local

        package = folder / "pipeline.yaml"
        package.write_text(compile_pipeline("build_and_publish", local_options()), encoding="utf-8")
        pipeline = components.load_component_from_file(str(package))
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        try:
            pipeline(recipe=travelling_json(recipe), recipe_digest=recipe.digest(), force=force)
        except Exception as error:
            return error
    return None


def _explained(failure: Exception, steps: list[dict[str, Any]], folder: Path) -> EnginepressError:
    """The error of the step that failed, instead of kfp's word that one did."""
    for record in steps:
        if record["status"] == "failed":
            error = record["error"]
            if error["type"] == "bug":
                return EnginepressError(
                    f"step {record['step']} hit a bug: {error['message']}",
                    where=str(folder / f"{record['step']}.json"),
                    fix="please report it with that file, which holds the traceback",
                )
            return error_from_json(error)
        if record["status"] == "running":
            return BuildError(
                f"step {record['step']} was killed while it worked; out of memory is the usual cause",
                where=str(folder / "pipeline.log"),
                fix="run the recipe again: finished steps are not repeated",
            )
    return EnginepressError(
        f"the pipeline could not be run: {failure}\n{last_lines(folder / 'pipeline.log')}", where=str(folder / "pipeline.log")
    )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _following(folder: Path, follow: Follow | None) -> Iterator[None]:
    """Tells `follow` how the steps go, by reading the small files that they leave."""
    if follow is None:
        yield
        return
    stop = threading.Event()
    told: dict[str, tuple[str, str]] = {}

    def look() -> None:
        for step in STEPS:
            if told.get(step, ("", ""))[0] == "done":
                continue  # its seconds may still grow a little while it writes what people look at
            state = _state(folder, step)
            if state is not None and told.get(step) != state:
                told[step] = state
                follow(step, *state)

    def loop() -> None:
        while not stop.wait(0.2):
            look()

    thread = threading.Thread(target=loop, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


def _state(folder: Path, step: str) -> tuple[str, str] | None:
    try:
        record = json.loads((folder / f"{step}.json").read_text())
    except FileNotFoundError:
        return None
    if record["status"] == "running":
        try:
            return "running", (folder / f"{step}.now").read_text()
        except FileNotFoundError:
            return "running", ""
    if record["status"] == "done":
        skipped = record["facts"].get("skipped", "")
        return "done", skipped or f"{record['seconds']:.1f} s"
    return "failed", ""


def _forget_old_runs(workspace: Workspace) -> None:
    runs = sorted(p for p in workspace.path("runs").iterdir() if p.is_dir())
    for old in runs[:-KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
