"""A step as a task: recipes that are left in the workspace, tries that cannot help, scratch, and what the exit handler tells."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import RecipeError, UsageError
from enginepress.recipe import Recipe
from enginepress.recipe_file import travelling_json
from enginepress.steps.find_changed import find_changed
from enginepress.steps.job import Plan
from enginepress.steps.run_report import KEPT_RUNS, run_report
from enginepress.steps.scratch_output import scratch_output
from enginepress.steps.task import find_changed_task, step_task
from enginepress.steps.travelling import arrived_recipe, leave_recipe
from enginepress.workspace import Workspace

CHECKPOINT = Path(__file__).parents[2] / "examples" / "checkpoints" / "tiny-llama"
RECIPE = Recipe.model_validate({"name": "tiny", "source": "hf://org/tiny@main", "stores": ["file:///srv/models"]})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("ENGINEPRESS_WORKSPACE", str(tmp_path / "w"))
    for name in ("ENGINEPRESS_OWNER", "ENGINEPRESS_RUN", "ENGINEPRESS_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    return Workspace(tmp_path / "w")


def _record(workspace: Workspace, step: str, run: str = "r-tiny", **values: Any) -> None:
    workspace.write_json({"step": step, "status": "done", "seconds": 1.0, "facts": {}, **values}, "runs", run, f"{step}.json")


def _plan() -> str:
    return Plan("r-tiny", "revision", "commit", "engine", "key", "checks", 7).to_json()


def test_a_recipe_that_is_left_in_the_workspace_arrives_as_it_was(workspace: Workspace) -> None:
    text, digest = leave_recipe(RECIPE, workspace)
    assert len(text) < 100
    assert arrived_recipe(text, digest, workspace) == RECIPE
    assert arrived_recipe(travelling_json(RECIPE), RECIPE.digest(), workspace) == RECIPE
    file = workspace.path("recipes", f"{digest}.json")
    file.write_text(file.read_text().replace("org/tiny", "org/evil"))
    with pytest.raises(RecipeError, match="was changed on its way"):
        arrived_recipe(text, digest, workspace)
    with pytest.raises(RecipeError, match="is not in this workspace"):
        arrived_recipe("workspace:" + "0" * 64, "", workspace)


def _build(**more: str) -> str:
    return step_task("build", travelling_json(RECIPE), RECIPE.digest(), _plan(), **more)


def test_a_step_that_said_no_for_good_is_not_done_again_within_its_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(workspace, "build", status="failed", final=True, error={"message": "the tool said no"})
    with pytest.raises(SystemExit):
        _build()
    assert "the tool said no (this was said before" in capsys.readouterr().err


@pytest.mark.parametrize(
    "before",
    [
        {"status": "running"},
        {"status": "failed", "final": False, "error": {"message": "the network was away"}},
        {"status": "done"},
    ],
    ids=["killed", "cut off", "done"],
)
def test_a_step_that_was_killed_or_cut_off_is_done_again(workspace: Workspace, before: dict[str, Any]) -> None:
    _record(workspace, "build", **before)
    assert json.loads(_build()) == {"skipped": "release 7 is built already"}
    assert workspace.read_json("runs", "r-tiny", "build.json")["status"] == "done"  # type: ignore[index]


@pytest.mark.parametrize(
    ("error", "final"), [("RecipeError", True), ("GateError", True), ("BuildError", True), ("StoreError", False)]
)
def test_a_failed_step_says_whether_trying_again_can_help(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: str, final: bool
) -> None:
    import enginepress.errors
    import enginepress.steps.build

    def fails(*_: object) -> dict[str, Any]:
        raise getattr(enginepress.errors, error)("no")

    monkeypatch.setattr(enginepress.steps.build, "build", fails)
    with pytest.raises(SystemExit):
        _build()
    record = workspace.read_json("runs", "r-tiny", "build.json")
    assert record is not None
    assert record["final"] is final


def test_work_is_done_in_scratch_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, output = tmp_path / "scratch", tmp_path / "output"
    scratch.mkdir()
    output.mkdir()
    monkeypatch.setenv("ENGINEPRESS_SCRATCH", str(scratch))
    with scratch_output(output, "tensorrt_llm") as place:
        assert place.parent == scratch
        (place / "a").mkdir()
        (place / "a" / "rank0.engine").write_bytes(b"engine")
        assert not list(output.iterdir())
    assert (output / "a" / "rank0.engine").read_bytes() == b"engine"
    assert not list(scratch.iterdir())
    with contextlib.suppress(ZeroDivisionError), scratch_output(output, "tensorrt_llm") as place:
        (place / "half").touch()
        raise ZeroDivisionError
    assert not (output / "half").exists()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(("builder", "named"), [("vllm", True), ("tensorrt_llm", False)])
def test_what_links_files_or_has_no_scratch_works_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: str, named: bool
) -> None:
    if named:
        monkeypatch.setenv("ENGINEPRESS_SCRATCH", str(tmp_path))
    else:
        monkeypatch.delenv("ENGINEPRESS_SCRATCH", raising=False)
    with scratch_output(tmp_path, builder) as place:
        assert place == tmp_path


def test_the_report_tells_each_recipe_and_what_to_do(workspace: Workspace) -> None:
    _record(workspace, "resolve", run="r-one-01234567", facts={"revision_id": "abc"})
    _record(
        workspace,
        "build",
        run="r-one-01234567",
        status="failed",
        error={"message": "no room", "where": "/tmp", "fix": "more scratch"},
    )
    _record(workspace, "resolve", run="r-two-01234567")
    _record(workspace, "download", run="r-two-01234567", status="running")
    failed = {"name": "three", "path": "/recipes/3.yaml", "state": "failed", "error": {"message": "is gone", "fix": "look"}}
    workspace.write_json([failed, {"name": "four", "path": "", "state": "current", "error": None}], "runs", "r", "changed.json")
    text = run_report(workspace, "r", "FAILED", "a task failed")
    assert text.startswith("# Run r: failed")
    assert text.index("## Recipes") < text.index("## one") < text.index("## two")
    assert "2 looked at: 1 current, 1 failed" in text
    assert "` /recipes/3.yaml ` is gone" in text
    assert "**build failed.** /tmp: no room" in text
    assert "What to do: more scratch" in text
    assert "was killed" in text
    assert "a task failed" in text
    assert (workspace.path("runs") / "r.md").read_text() == text


def test_the_report_of_a_run_that_never_started_says_so_and_old_ones_are_forgotten(workspace: Workspace) -> None:
    for number in range(KEPT_RUNS + 5):
        folder = workspace.path("runs", f"old-{number}")
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    assert "No step has started." in run_report(workspace, "r", "CANCELLED", "")
    left = {p.name for p in workspace.path("runs").iterdir()}
    assert len(left) == KEPT_RUNS
    assert {"r.md", f"old-{KEPT_RUNS + 4}"} <= left
    assert "old-0" not in left


def test_what_is_to_be_built_goes_on_by_its_name_and_two_of_one_name_do_not(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sources.tiny import checkpoint, write

    write(tmp_path / "checkpoint", checkpoint())
    folder = tmp_path / "recipes"
    folder.mkdir()
    for file, name in (("a", "one"), ("b", "twin"), ("c", "twin")):
        (folder / f"{file}.yaml").write_text(
            f"name: {name}\nsource: file://{tmp_path}/checkpoint\nstores: [file://{tmp_path}/store]\nchannels: [production]\n"
        )
    (folder / "wrong.yaml").write_text("name: wrong\nsource: nowhere\nstores: [file:///x]\n")
    todo = find_changed(str(folder), workspace, "r")
    (one,) = todo
    recipe = arrived_recipe(one["recipe"], one["recipe_digest"], workspace)
    assert (recipe.name, recipe.channels) == ("one", ["candidate"])
    said = run_report(workspace, "r", "SUCCEEDED", "")
    assert "4 looked at: 3 failed, 1 new" in said
    assert said.count("is a recipe of twin") == 2
    assert "wrong.yaml" in capsys.readouterr().err


def test_a_folder_without_recipes_is_a_mistake_and_the_report_says_so(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no recipe"):
        find_changed(str(tmp_path), workspace, "r")
    with pytest.raises(SystemExit):
        find_changed_task(str(tmp_path), "r", summary=str(tmp_path / "summary.md"))
    said = run_report(workspace, "r", "FAILED", "")
    assert f"**find_changed failed.** {tmp_path}: holds no recipe" in said
    assert "No step has started" not in said


def test_find_changed_shows_what_is_to_be_built_and_why(workspace: Workspace, tmp_path: Path) -> None:
    from tests.sources.tiny import checkpoint, write

    write(tmp_path / "checkpoint", checkpoint())
    folder = tmp_path / "recipes" / "team"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text(f"name: one\nsource: file://{tmp_path}/checkpoint\nstores: [file://{tmp_path}/store]\n")
    (folder / "wrong.yaml").write_text("name: wrong\nsource: nowhere\nstores: [file:///x]\n")
    summary = tmp_path / "outputs" / "summary.md"
    (todo,) = find_changed_task(str(tmp_path / "recipes"), "r", summary=str(summary))
    assert arrived_recipe(todo["recipe"], todo["recipe_digest"], workspace).name == "one"
    shown = summary.read_text()
    assert "2 looked at: 1 failed, 1 new." in shown
    assert "| one | new | it was never built |" in shown
    assert f"` {folder}/wrong.yaml ` " in shown
    assert "What to do: " in shown


def test_resolve_cuts_pods_on_a_cluster_and_hands_the_runs_registry_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step as a cluster starts it: only the compiled file says where things are."""
    import signal

    from enginepress.cluster import Cluster
    from enginepress.steps.task import resolve_task

    for name in ("ENGINEPRESS_WORKSPACE", "ENGINEPRESS_OWNER", "ENGINEPRESS_RUN", "ENGINEPRESS_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENGINEPRESS_SCRATCH", str(tmp_path))
    monkeypatch.setenv("ENGINEPRESS_TIMING_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", os.environ["HOME"])
    mounts = (str(tmp_path), str(CHECKPOINT.parent))
    cluster = Cluster(str(tmp_path / "w"), mounts, scratch=2**40, shared_memory=2**40, image_prefix="mirror.site")
    monkeypatch.setenv("ENGINEPRESS_CLUSTER", cluster.to_json())
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "source": f"file://{CHECKPOINT}",
            "stores": [f"file://{tmp_path}/store"],
            "engine": {"builder": "vllm", "precision": "float16", "gpu": {"name": "L4"}, "image": "nvcr.io/own@sha256:1"},
        }
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        arguments = ("light", "", "nvidia.com/gpu", 0, {"pool": "builds"}, "http://mlflow:5000")
        plan, *pods = resolve_task(travelling_json(recipe), recipe.digest(), "job", False, *arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    convert, build, verify = pods[:6], pods[6:12], pods[12:]
    assert convert == build == ["light", "1", "2048Mi", "", "0", {}]
    assert (verify[0], verify[3:5]) == ("mirror.site/own@sha256:1", ["nvidia.com/gpu", "1"])
    assert "NVIDIA-L4" in json.dumps(verify[5])
    assert '"pool"' in json.dumps(verify[5])
    made = Plan.from_json(plan)
    assert made.run == f"job-tiny-{recipe.digest()[:8]}"
    assert made.registry == "http://mlflow:5000"


@pytest.mark.parametrize(("own", "used"), [(None, "http://runs"), ("http://own", "http://own")])
def test_the_runs_registry_is_for_recipes_that_name_none(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, own: str | None, used: str
) -> None:
    import enginepress.steps.register

    seen = []
    monkeypatch.setattr(
        enginepress.steps.register, "register", lambda job, plan: seen.append(job.recipe.registry.tracking_uri) or {}
    )
    recipe = Recipe.model_validate({**RECIPE.canonical(), **({"registry": {"tracking_uri": own}} if own else {})})
    plan = Plan("r-tiny", "revision", "commit", "engine", "key", "checks", 7, registry="http://runs").to_json()
    step_task("register", travelling_json(recipe), recipe.digest(), plan)
    assert seen == [used]
