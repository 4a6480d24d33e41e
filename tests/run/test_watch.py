"""watch: builds exactly what has changed, whatever fails or is killed beside it.

The hub is real HTTP; releases that are there already are pretended (`tests.steps.pretend`); what is built is built for real, by
processes of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import BuildError, LockedError, RunEndedError
from enginepress.recipe_file import load_recipe
from enginepress.run.apart import RunApart
from enginepress.run.watch import one_pass, watch
from enginepress.run.watch_record import Pass, Watched
from enginepress.steps.attempts import FIRST_PAUSE
from enginepress.steps.resolve import plan_of
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.run.recipes import enginepress, write_recipe
from tests.run.test_killed import _complete_outputs, _processes_of, _wait_until_gone
from tests.sources.conftest import hub as hub
from tests.sources.hub_server import HubServer
from tests.sources.tiny import checkpoint as bytes_only
from tests.steps.pretend import pretend_release


class Site:
    """Recipes in one folder, with a workspace, a store and a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes = folder / "recipes"
        self.recipes.mkdir(parents=True)
        self.workspace = Workspace(folder / "workspace")

    def write(self, name: str, uri: str, **changes: Any) -> Path:
        path = self.recipes / f"{name}.yaml"
        recipe = {
            "name": name,
            "source": uri,
            "checks": {"served": False},
            "stores": [f"file://{self.folder}/store"],
            "registry": {"tracking_uri": f"sqlite:///{self.folder}/mlflow.db"},
            **changes,
        }
        path.write_text(yaml.safe_dump(recipe))
        return path

    def pretend(self, path: Path) -> None:
        """What the recipe's source has now is released."""
        recipe = load_recipe(path)
        pretend_release(recipe, *plan_of(recipe, self.workspace.path("cache"), "r"), self.folder)

    def releases(self, name: str) -> list[int]:
        return open_store(load_recipe(self.recipes / f"{name}.yaml").stores[0]).numbers(name)

    def once(self, *more: str) -> subprocess.CompletedProcess[str]:
        return enginepress("watch", self.recipes, "--once", "--json", "-w", self.workspace.root, *more)

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "enginepress", "watch", str(self.recipes), "-w", str(self.workspace.root), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def _outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for recipe in json.loads(done.stdout)["recipes"]:
        found.setdefault(recipe["outcome"], []).append(Path(recipe["path"]).stem)
    return found


def _pass(site: Site, stop: threading.Event | None = None) -> Pass:
    return one_pass([site.recipes], site.workspace, stop=stop or threading.Event())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_200_recipes_those_that_moved_are_built_and_no_other(hub: HubServer, site: Site, checkpoint: Path) -> None:
    hub.add_repo("org/steady", bytes_only())
    moving = {f"moves-{n}": f"org/moves-{n}" for n in range(3)}
    for repo in (*moving.values(), "org/gone", "org/private", "org/odd"):
        hub.add_repo(repo, bytes_only(seed=3))
    steady = [site.write(f"steady-{n:03}", "hf://org/steady@main") for n in range(194)]
    others = [site.write(name, f"hf://{repo}") for name, repo in moving.items()]
    others += [site.write(name, f"hf://org/{name}") for name in ("gone", "private", "odd")]
    for path in (*steady, *others):
        site.pretend(path)
    for repo in moving.values():
        hub.commit(repo, checkpoint)
    hub._repos.pop("org/gone")
    hub._repos["org/private"].token = "hf_somebody_else"
    (site.recipes / "odd.yaml").write_text((site.recipes / "odd.yaml").read_text().replace("served:", "severed:"))
    before = {p: p.stat().st_mtime_ns for p in (site.folder / "store").rglob("*") if "steady" in str(p)}

    first = site.once("--parallel", "2")
    assert first.returncode == 1
    outcomes = _outcomes(first)
    assert {outcome: len(names) for outcome, names in outcomes.items()} == {"current": 194, "built": 3, "failed": 3}
    assert sorted(outcomes["built"]) == sorted(moving)
    errors = {Path(r["path"]).stem: r["error"] for r in json.loads(first.stdout)["recipes"] if r["error"]}
    assert sorted(errors) == ["gone", "odd", "private"]
    assert "org/gone" in errors["gone"]["where"]
    assert "HF_TOKEN" in errors["private"]["fix"]
    assert "did you mean 'served'?" in errors["odd"]["message"]
    assert [site.releases(name) for name in moving] == [[1, 2]] * 3
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what had not changed was touched"
    report = (site.workspace.root / "watch" / "last.md").read_text()
    assert "194 current, 3 built, 3 failed" in report
    assert "moves-0" in report

    second = site.once()
    assert {outcome: len(names) for outcome, names in _outcomes(second).items()} == {"current": 197, "failed": 3}
    assert [site.releases(name) for name in moving] == [[1, 2]] * 3


@pytest.mark.slow
def test_what_is_built_goes_to_candidate_only(hub: HubServer, site: Site, checkpoint: Path) -> None:
    hub.add_repo("org/tiny", checkpoint)
    path = site.write("tiny", "hf://org/tiny", checks={}, channels=["candidate", "production"])
    done = site.once()
    assert done.returncode == 0, done.stderr
    assert open_store(load_recipe(path).stores[0]).channels("tiny") == {"candidate": 1}
    assert "tiny: new: it was never built" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", [2.0, 5.0, 9.0])
def test_a_watcher_that_is_killed_repeats_nothing(hub: HubServer, site: Site, checkpoint: Path, moment: float) -> None:
    for name in ("a", "b"):
        hub.add_repo(f"org/{name}", checkpoint)
        site.write(name, f"hf://org/{name}", checks={})
    watcher = site.start("--once")
    try:
        watcher.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(watcher.pid, signal.SIGKILL)
    watcher.communicate()
    _wait_until_gone(site.workspace.root)
    before = _complete_outputs(site.workspace.root)
    hub.requests.clear()

    done = site.once()
    assert done.returncode == 0, done.stderr
    after = _complete_outputs(site.workspace.root)
    assert {k: after[k] for k in before} == before, "a finished step was repeated"
    assert [site.releases(name) for name in ("a", "b")] == [[1], [1]]
    assert list(_outcomes(site.once())) == ["current"]
    assert not list(site.workspace.path("locks").glob("*"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_terminated_watcher_ends_its_builds_and_the_next_goes_on(hub: HubServer, site: Site, checkpoint: Path) -> None:
    hub.add_repo("org/tiny", checkpoint)
    site.write("tiny", "hf://org/tiny")
    watcher = site.start("--every", "1h")
    assert watcher.stderr is not None
    deadline = time.monotonic() + 120
    while not list(site.workspace.path("checkpoints").glob("*/record.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    watcher.terminate()
    out, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, err
    assert "1 ended" in out
    assert "Traceback" not in err
    assert not _processes_of(site.workspace.root)
    assert not list(site.workspace.path("locks").glob("*"))
    before = _complete_outputs(site.workspace.root)
    assert before
    assert _outcomes(site.once()) == {"built": ["tiny"]}
    after = _complete_outputs(site.workspace.root)
    assert {k: after[k] for k in before} == before


def test_a_build_that_fails_is_not_tried_at_every_pass_and_stops_no_other(
    hub: HubServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/bad", bytes_only())  # no model that any builder takes
    hub.add_repo("org/good", bytes_only())
    site.write("bad", "hf://org/bad")
    site.pretend(site.write("good", "hf://org/good"))
    now = time.time()
    monkeypatch.setattr("enginepress.steps.attempts.time.time", lambda: now)
    bad, good = _pass(site).recipes
    assert (bad.outcome, bad.failures, good.outcome) == ("failed", 1, "current")
    assert bad.error is not None
    assert bad.error["fix"]
    runs = list(site.workspace.path("runs").iterdir())
    again = _pass(site).recipes[0]
    assert (again.outcome, again.failures, again.error) == ("postponed", 1, bad.error)
    assert list(site.workspace.path("runs").iterdir()) == runs
    now += FIRST_PAUSE + 1
    once_more = _pass(site).recipes[0]
    assert (once_more.outcome, once_more.failures) == ("failed", 2)
    now += FIRST_PAUSE + 1
    assert _pass(site).recipes[0].outcome == "postponed", "the pause doubles"
    # Another commit is another build, and is tried at once.
    hub.commit("org/bad", bytes_only(seed=9))
    assert (_pass(site).recipes[0].outcome, _pass(site).recipes[0].outcome) == ("failed", "postponed")
    # It can be had at once; the next pass waits again.
    asked = one_pass([site.recipes], site.workspace, stop=threading.Event(), retry_failed=True).recipes[0]
    assert (asked.outcome, asked.failures, _pass(site).recipes[0].outcome) == ("failed", 2, "postponed")


def test_a_recipe_that_waits_is_tried_at_once_if_that_is_wanted(hub: HubServer, site: Site) -> None:
    hub.add_repo("org/bad", bytes_only())
    site.write("bad", "hf://org/bad")
    assert _outcomes(site.once()) == {"failed": ["bad"]}
    waiting = enginepress("watch", site.recipes, "--once", "-w", site.workspace.root)
    assert (waiting.returncode, "1 postponed" in waiting.stdout) == (1, True)
    assert "or with --retry-failed" in waiting.stderr
    assert _outcomes(site.once("--retry-failed")) == {"failed": ["bad"]}


def test_one_watcher_a_workspace(site: Site) -> None:
    with site.workspace.lock("watch", about="a watcher"):
        with pytest.raises(LockedError, match="a watcher"):
            watch([site.recipes], site.workspace, every=None)
        done = site.once()
    assert done.returncode == 1
    assert "is held by a watcher" in done.stderr


def test_passes_go_on_until_it_is_stopped(hub: HubServer, site: Site) -> None:
    hub.add_repo("org/tiny", bytes_only())
    site.pretend(site.write("tiny", "hf://org/tiny"))
    stop, seen = threading.Event(), []

    def on_pass(done: Pass) -> None:
        seen.append(done.counts())
        if len(seen) == 2:
            site.pretend(site.write("later", "hf://org/tiny"))  # folders are searched anew
        if len(seen) == 3:
            stop.set()

    watch([site.recipes], site.workspace, every=0.05, stop=stop, on_pass=on_pass)
    assert seen == [{"current": 1}, {"current": 1}, {"current": 2}]


@pytest.mark.parametrize("text", ["0m", "fifteen", "15", "-1m", "1y"])
def test_what_is_no_duration_is_refused(site: Site, text: str) -> None:
    done = enginepress("watch", site.recipes, f"--every={text}", "-w", site.workspace.root)
    assert done.returncode == 2
    assert "write 90s, 15m, 2h or 1d" in done.stderr


def test_the_report_of_a_pass_is_safe_to_show() -> None:
    watched = Watched("<b>.yaml", "tiny", "failed", "failed", error={"message": "<script>`|`", "where": None, "fix": "mend *it*"})
    text = Pass("2026-01-01T00:00:00Z", 1.0, 0.5, (watched,)).to_markdown()
    assert "<script>" not in text
    assert "\\*it\\*" in text


def test_a_run_apart_tells_its_steps_and_its_result(built: Path, checkpoint: Path) -> None:
    path = write_recipe(built, checkpoint, checks={"served": False})
    seen: list[tuple[str, str]] = []
    workspace = Workspace(built / "workspace")
    with RunApart(load_recipe(path), workspace) as run:
        result = run.result(follow=lambda step, status, text: seen.append((step, status)))
    assert (result.release, result.up_to_date) == (1, False)
    assert ("promote", "done") in seen
    with RunApart(load_recipe(path), workspace) as run:
        again = run.result()
    assert again.up_to_date
    assert again.plan.build_key == result.plan.build_key


def test_a_run_apart_that_is_ended_or_dies_says_so(tmp_path: Path, checkpoint: Path) -> None:
    recipe, workspace = load_recipe(write_recipe(tmp_path, checkpoint)), Workspace(tmp_path / "workspace")
    with RunApart(recipe, workspace) as run:
        threading.Timer(0.5, run.end).start()
        with pytest.raises(RunEndedError):
            run.result()
    with RunApart(recipe, workspace) as run:
        run._child.kill()
        with pytest.raises(BuildError, match="ended with status -9"):
            run.result()
