"""The file that a cluster gets, run here: to the same release as `enginepress run`, and as its steps see it on a cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.compile_options import CompileOptions
from enginepress.recipe_file import load_recipe, travelling_json
from enginepress.run.compiled import compile_pipeline
from enginepress.stores.open import open_store
from tests.run.conftest import Finished
from tests.run.recipes import write_recipe

IMAGE = "registry.example/enginepress@sha256:" + "ab" * 32

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def site() -> Iterator[Path]:
    """Not under /tmp, where a step's scratch volume is mounted."""
    folder = Path(tempfile.mkdtemp(prefix="enginepress-test-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _compile(site: Path, name: str, **options: Any) -> Path:
    path = site / f"{name}.yaml"
    path.write_text(compile_pipeline(name, CompileOptions(image=IMAGE, **options)))
    return path


def _start(site: Path, file: Path, parameters: dict[str, Any], **env: str) -> subprocess.Popen[bytes]:
    """What it prints goes to a file: a pipe that nobody reads would hold it up."""
    command = [sys.executable, "-m", "tests.run.run_compiled", str(file), str(site / "kfp"), json.dumps(parameters)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ENGINEPRESS_")}
    with open(site / "said", "wb") as said:
        return subprocess.Popen(command, env={**kept, **env}, stdout=said, stderr=subprocess.STDOUT)


def _end(site: Path, run: subprocess.Popen[bytes]) -> str:
    """Waits for a run; what it has printed."""
    run.wait()
    return (site / "said").read_text(errors="replace")


def _content(recipe: Path, number: int) -> str:
    loaded = load_recipe(recipe)
    return open_store(loaded.stores[0]).manifest(loaded.name, number).content_digest


def _parameters(recipe: Path) -> dict[str, Any]:
    loaded = load_recipe(recipe)
    return {"recipe": travelling_json(loaded), "recipe_digest": loaded.digest()}


@pytest.mark.slow
def test_it_runs_here_to_the_same_release(site: Path, checkpoint: Path, finished_once: Finished) -> None:
    recipe = write_recipe(site / "here", checkpoint)
    file = _compile(site, "build_and_publish", retries=0)
    done = _start(site, file, _parameters(recipe), ENGINEPRESS_WORKSPACE=str(site / "workspace"))
    said = _end(site, done)
    assert done.returncode == 0, said[-3000:]
    assert _content(recipe, 1) == _content(finished_once.recipe, 1)
    assert open_store(load_recipe(recipe).stores[0]).channel("tiny", "candidate") == 1
    (report,) = (site / "workspace" / "runs").glob("*.md")
    assert "succeeded" in report.read_text().splitlines()[0]
    assert "| promote | done |" in report.read_text()


@pytest.mark.slow
def test_its_steps_find_workspace_scratch_and_store_as_they_are_mounted(
    site: Path, checkpoint: Path, finished_once: Finished
) -> None:
    """As on a cluster: nothing but the compiled file says where things are."""
    here = site / "mounted"
    recipe = write_recipe(here, checkpoint, source=f"file://{here}/checkpoint")
    shutil.copytree(checkpoint, here / "checkpoint")
    file = _compile(site, "build_and_publish", retries=0, workspace=str(site / "workspace"), store=str(here))
    done = _start(site, file, _parameters(recipe))
    said = _end(site, done)
    assert done.returncode == 0, said[-3000:]
    assert _content(recipe, 1) == _content(finished_once.recipe, 1), "that it was built in scratch changes nothing"
    assert not list(Path("/tmp").glob("enginepress-output-*")), "scratch is left clean"

    # A store that is not mounted is refused by resolve, before anything is downloaded, and the exit handler says so.
    elsewhere = write_recipe(site / "elsewhere", checkpoint)
    done = _start(site, file, _parameters(elsewhere))
    said = _end(site, done)
    assert done.returncode != 0
    assert "lies on no volume of this pipeline's steps" in said
    newest = max((site / "workspace" / "runs").glob("*.md"), key=lambda p: p.stat().st_mtime).read_text()
    assert "**resolve failed.**" in newest
    assert "compile the pipeline with --store-path" in newest


@pytest.mark.slow
def test_a_scheduled_rebuild_builds_what_moved_for_candidate_only_and_nothing_twice(site: Path, checkpoint: Path) -> None:
    """A recipe that cannot be read, and a build that fails, keep no other from being built, and end the run badly."""
    here = site / "mounted"
    recipes = site / "recipes"
    recipes.mkdir()
    for name in ("one", "two"):
        written = write_recipe(here / name, checkpoint, name=name, source=f"file://{here}/checkpoint", channels=["production"])
        shutil.copy(written, recipes / f"{name}.yaml")
    broken = recipes / "broken.yaml"
    broken.write_text("name: broken\nsource: file:///nowhere\nstores: [file:///nowhere]\nengine: {builder: none}\n")
    wrong = write_recipe(here / "wrong", checkpoint, name="wrong", source=f"file://{here}/wrong-checkpoint")
    shutil.copy(wrong, recipes / "wrong.yaml")
    shutil.copytree(checkpoint, here / "checkpoint")
    shutil.copytree(checkpoint, here / "wrong-checkpoint")
    (here / "wrong-checkpoint" / "config.json").write_text('{"model_type": "llama"}')
    options: dict[str, Any] = {
        "workspace": str(site / "workspace"),
        "store": str(here),
        "recipes_path": str(recipes),
        "retries": 0,
    }
    file = _compile(site, "rebuild_on_new_checkpoints", **options)

    def turn() -> tuple[int, str, str]:
        """Exit status, what was said, and the exit handler's report."""
        before = set((site / "workspace" / "runs").glob("*.md"))
        done = _start(site, file, {})
        said = _end(site, done)
        for name in ("one", "two"):
            store = open_store(load_recipe(recipes / f"{name}.yaml").stores[0])
            assert store.numbers(name) == [1], said[-3000:]
            assert set(store.channels(name)) == {"candidate"}
        (report,) = set((site / "workspace" / "runs").glob("*.md")) - before
        return done.returncode, said, report.read_text()

    status, said, report = turn()
    assert status != 0, "a build has failed"
    assert "broken.yaml" in said
    assert "4 looked at: 1 failed, 3 new" in report
    assert "Held back until" in report
    status, said, report = turn()
    assert status != 0, "one cannot be read, and one is held back"
    assert "2 of 4 recipes are not well" in said
    assert "4 looked at: 2 current, 1 failed, 1 held back" in report
    built = [p.parent.name for p in (site / "workspace" / "runs").glob("*/build.json")]
    assert len(built) == 2, "the second pass builds nothing"
    broken.unlink()
    (recipes / "wrong.yaml").unlink()
    status, said, report = turn()
    assert status == 0, said[-3000:]
    assert "2 looked at: 2 current." in report


@pytest.mark.slow
def test_a_step_that_is_asked_to_end_leaves_a_workspace_to_go_on_with(site: Path, checkpoint: Path) -> None:
    """SIGTERM, as preemption sends it, in the middle of the build: nothing half-made, no lock, and the next run goes on."""
    here = site / "mounted"
    recipe = write_recipe(here, checkpoint, source=f"file://{here}/checkpoint")
    shutil.copytree(checkpoint, here / "checkpoint")
    workspace = site / "workspace"
    file = _compile(site, "build_and_publish", retries=0, workspace=str(workspace), store=str(here))
    run = _start(site, file, _parameters(recipe))
    deadline = time.monotonic() + 120
    while not list(workspace.glob("partial/engines-*/")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for task in _tasks_of(run.pid):
        os.kill(task, signal.SIGTERM)
    said = _end(site, run)
    assert run.returncode != 0
    assert "asked to end" in said
    assert not list(workspace.glob("partial/engines-*"))
    assert not list(workspace.glob("locks/engines-*.json"))
    downloaded = next(workspace.glob("checkpoints/*/record.json")).stat().st_mtime_ns
    again = _start(site, file, _parameters(recipe))
    said = _end(site, again)
    assert again.returncode == 0, said[-3000:]
    assert next(workspace.glob("checkpoints/*/record.json")).stat().st_mtime_ns == downloaded, "it is not downloaded again"


def _tasks_of(parent: int) -> list[int]:
    """Executors of kfp below a process: those that run a step."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [parent]
    while todo:
        for child in children.get(todo.pop(), []):
            todo.append(child)
            try:
                if b"kfp.dsl.executor_main" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    found.append(child)
            except OSError:
                continue
    return found
