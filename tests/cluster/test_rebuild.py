"""A scheduled rebuild from run to run: what failed is held back and told, and a run in which a recipe is not well ends badly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import EnginepressError, WorkspaceError
from enginepress.steps import STEPS
from enginepress.steps.attempts import FIRST_PAUSE, LONGEST_PAUSE
from enginepress.steps.conclude import conclude
from enginepress.steps.find_changed import find_changed
from enginepress.steps.run_report import run_report
from enginepress.steps.task import conclude_task, find_changed_task
from enginepress.steps.travelling import arrived_recipe
from enginepress.workspace import Workspace
from tests.sources.tiny import checkpoint, write

GATE_SAYS_NO = {"type": "GateError", "message": "1 of 3 checks failed", "where": None, "fix": "look at the report"}


class Cluster:
    """A folder of recipes, a workspace, and runs whose builds end as the test wants."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipes = folder / "recipes"
        self.recipes.mkdir()
        self.workspace = Workspace(folder / "workspace")
        self.now = 2_000_000_000.0
        self._folder = folder
        monkeypatch.setattr("enginepress.steps.attempts.time.time", lambda: self.now)
        write(folder / "checkpoint", checkpoint())

    def recipe(self, name: str, text: str = "") -> Path:
        path = self.recipes / f"{name}.yaml"
        path.write_text(f"name: {name}\nsource: file://{self._folder}/checkpoint\nstores: [file://{self._folder}/store]\n{text}")
        return path

    def find(self, run: str, *, retry_failed: bool = False) -> list[str]:
        """The names of what is to be built."""
        found = find_changed(str(self.recipes), self.workspace, run, retry_failed=retry_failed)
        return [arrived_recipe(one["recipe"], one["recipe_digest"], self.workspace).name for one in found]

    def build(self, run: str, name: str, *, until: str = STEPS[-1], **last: Any) -> None:
        """Leaves what the steps of a build leave, up to the last one that began."""
        (change,) = (c for c in self.looked_at(run) if c["name"] == name)
        for step in STEPS[: STEPS.index(until) + 1]:
            record = {"step": step, "status": "done", "seconds": 1.0, "facts": {}, **(last if step == until else {})}
            self.workspace.write_json(record, "runs", change["run"], f"{step}.json")

    def looked_at(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.workspace.read_json("runs", run, "changed.json")  # type: ignore[assignment]
        return found

    def report(self, run: str, state: str = "FAILED") -> str:
        return run_report(self.workspace, run, state, "")

    def remembered(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.workspace.path("watch", "attempts.json").read_text())
        return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name in ("ENGINEPRESS_OWNER", "ENGINEPRESS_RUN", "ENGINEPRESS_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENGINEPRESS_WORKSPACE", str(tmp_path / "workspace"))
    return Cluster(tmp_path, monkeypatch)


def test_a_build_that_failed_is_held_back_by_the_next_run_and_tried_again_after_its_pause(cluster: Cluster) -> None:
    cluster.recipe("bad")
    cluster.recipe("good")
    assert cluster.find("r1") == ["bad", "good"]
    cluster.build("r1", "bad", until="verify", status="failed", error=GATE_SAYS_NO)
    cluster.build("r1", "good")
    said = cluster.report("r1")
    assert "Held back until 2033-05-18T03:43:20Z, since its build failed." in said
    assert "`enginepress schedule --now --retry-failed`" in said
    assert said.count("Held back") == 1

    assert cluster.find("r2") == ["good"], "its pretended build has left no release"
    cluster.build("r2", "good")
    said = cluster.report("r2")
    assert "2 looked at: 1 held back, 1 new." in said
    assert "is held back until 2033-05-18T03:43:20Z, since its build failed: 1 of 3 checks failed" in said
    assert "What to do: look at the report" in said
    assert "| bad | new |" not in said

    cluster.now += FIRST_PAUSE + 1
    assert cluster.find("r3") == ["bad", "good"]
    cluster.build("r3", "bad", until="verify", status="failed", error=GATE_SAYS_NO)
    assert "since its build failed 2 times" in cluster.report("r3")


def test_what_is_held_back_is_tried_at_once_if_that_is_wanted_or_if_it_has_changed(cluster: Cluster) -> None:
    cluster.recipe("bad")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    cluster.report("r1")
    assert cluster.find("r2") == []
    assert cluster.find("r3", retry_failed=True) == ["bad"]
    cluster.recipe("bad", "engine: {precision: int8}\n")
    assert cluster.find("r4") == ["bad"]


def test_a_build_that_succeeds_is_forgotten_and_so_is_one_that_somebody_else_has_made(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.recipe("bad")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    cluster.report("r1")
    assert len(cluster.remembered()) == 1
    cluster.find("r2", retry_failed=True)
    cluster.build("r2", "bad")
    cluster.report("r2", "COMPLETE")
    assert cluster.remembered() == {}

    cluster.find("r3")
    cluster.build("r3", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    cluster.report("r3")
    assert len(cluster.remembered()) == 1
    monkeypatch.setattr("enginepress.steps.changed.outstanding", lambda *_: [])
    assert cluster.find("r4") == []
    assert cluster.remembered() == {}


@pytest.mark.parametrize(
    ("state", "until", "last", "counts"),
    [
        ("FAILED", "build", {"status": "running"}, True),
        ("RUNNING", "build", {"status": "running"}, True),
        ("CANCELED", "build", {"status": "running"}, False),
        ("FAILED", "build", {}, False),
        ("FAILED", None, {}, False),
    ],
    ids=["killed", "killed, and Kubeflow is late", "cancelled", "its next pod never began", "no pod began"],
)
def test_what_was_killed_counts_as_a_failure_and_what_never_ran_or_was_cancelled_does_not(
    cluster: Cluster, state: str, until: str | None, last: dict[str, Any], counts: bool
) -> None:
    cluster.recipe("one")
    cluster.find("r1")
    if until is not None:
        cluster.build("r1", "one", until=until, **last)
    said = cluster.report("r1", state)
    assert ("Held back" in said) is counts
    assert cluster.find("r2") == ([] if counts else ["one"])
    if counts:
        cluster.now += LONGEST_PAUSE
        assert cluster.find("r3") == ["one"], "it may have been the node"
    if until is None:
        assert "## one\n\nNo step has started" in said


def test_an_exit_handler_that_is_tried_again_counts_nothing_twice(cluster: Cluster) -> None:
    cluster.recipe("bad")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    first = cluster.report("r1")
    cluster.now += 60
    assert cluster.report("r1") == first
    (failure,) = cluster.remembered().values()
    assert failure["failures"] == 1


def test_a_workspace_that_cannot_be_written_costs_the_memory_and_not_the_report(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.recipe("bad")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)

    def full(*_: Any, **__: Any) -> Any:
        raise WorkspaceError("No space left on device")

    monkeypatch.setattr(Workspace, "write_json", full)
    assert "**build failed.** 1 of 3 checks failed" in cluster.report("r1")


def test_a_record_that_is_damaged_is_told_and_keeps_nothing_else_from_being_told(cluster: Cluster) -> None:
    cluster.recipe("bad")
    cluster.recipe("good")
    cluster.find("r1")
    cluster.build("r1", "bad")
    cluster.build("r1", "good")
    (bad,) = (c for c in cluster.looked_at("r1") if c["name"] == "bad")
    cluster.workspace.path("runs", bad["run"], "build.json").write_text("{")
    said = run_report(cluster.workspace, "r1", "FAILED", "```\nnot the end of it")
    assert "**build failed.**" in said
    assert "is damaged" in said
    assert "## good" in said
    assert "````\n```\nnot the end of it\n````" in said


def test_a_watcher_on_the_same_workspace_has_the_same_memory(cluster: Cluster) -> None:
    import threading

    from enginepress.run.watch import one_pass

    cluster.recipe("bad")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    cluster.report("r1")
    (watched,) = one_pass([cluster.recipes], cluster.workspace, stop=threading.Event()).recipes
    assert (watched.outcome, watched.failures, watched.again) == ("postponed", 1, "2033-05-18T03:43:20Z")


# How the run ends -----------------------------------------------------------------------------------------------------


def test_a_run_in_which_all_is_well_ends_well(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.recipe("one")
    cluster.recipe("two")
    cluster.find("r1")
    conclude_task("r1", summary=str(tmp_path / "out" / "summary.md"))
    assert "All 2 recipes are well." in capsys.readouterr().out
    assert "All 2 recipes are well." in (tmp_path / "out" / "summary.md").read_text()


def test_a_run_in_which_a_recipe_cannot_be_looked_at_or_is_held_back_ends_badly_and_says_which(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.recipe("bad")
    cluster.recipe("good")
    cluster.find("r1")
    cluster.build("r1", "bad", until="build", status="failed", error=GATE_SAYS_NO)
    cluster.report("r1")
    assert "are well" in conclude(cluster.workspace, "r1"), "what fails in this run ends it badly by itself"
    (cluster.recipes / "odd.yaml").write_text("name: odd\nsource: nowhere\nstores: [file:///x]\n")
    (cluster.recipes / "gone.yaml").write_text("name: gone\nsource: file:///not/there\nstores: [file:///x]\n")
    summary = tmp_path / "summary.md"
    find_changed_task(str(cluster.recipes), "r2", summary=str(summary))
    assert "4 looked at: 2 failed, 1 held back, 1 new." in summary.read_text()
    with pytest.raises(EnginepressError, match="3 of 4 recipes are not well"):
        conclude(cluster.workspace, "r2")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        conclude_task("r2", summary=str(tmp_path / "none.md"))
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"{cluster.recipes}/bad.yaml: held back until" in said
    assert f"{cluster.recipes}/odd.yaml: " in said
    assert f"{cluster.recipes}/gone.yaml: " in said
    assert "good.yaml" not in said


def test_what_find_changed_left_must_be_there_to_conclude(cluster: Cluster) -> None:
    with pytest.raises(WorkspaceError, match="is not there"):
        conclude(cluster.workspace, "r1")
