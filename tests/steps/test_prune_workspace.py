"""Pruning a workspace: by age and by size, the longest unused first, and never what somebody works with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginepress.errors import WorkspaceError
from enginepress.steps.job import Plan
from enginepress.steps.prune_workspace import plan_workspace, prune_workspace
from enginepress.workspace import Workspace

DAY = 86_400.0


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def output(workspace: Workspace, kind: str, key: str, *, days: float, size: int = 100_000) -> Path:
    def work(folder: Path) -> dict[str, object]:
        (folder / "weights.bin").write_bytes(os.urandom(size))
        return {}

    folder = workspace.produce(kind, key, work, about="making it").folder.parent
    moment = time.time() - days * DAY
    os.utime(folder / "record.json", (moment, moment))
    return folder


def fates(workspace: Workspace, **rules: object) -> dict[str, str]:
    return {item.key: item.fate for item in plan_workspace(workspace, **rules).items}  # type: ignore[arg-type]


def test_what_was_not_used_for_long_goes(workspace: Workspace) -> None:
    old = output(workspace, "engines", "old", days=40)
    young = output(workspace, "engines", "young", days=20)
    assert fates(workspace, older_than=30 * DAY) == {"old": "old", "young": ""}
    removed = prune_workspace(plan_workspace(workspace, older_than=30 * DAY))
    assert [item.path for item in removed] == [old]
    assert not old.exists()
    assert young.exists()


def test_asking_for_an_output_uses_it(workspace: Workspace) -> None:
    output(workspace, "engines", "old", days=40)
    assert workspace.find("engines", "old") is not None
    assert fates(workspace, older_than=30 * DAY) == {"old": "just used"}


def test_beyond_the_size_the_longest_unused_go_first(workspace: Workspace) -> None:
    for index, days in enumerate((3, 9, 6)):
        output(workspace, "checkpoints", f"c{index}", days=days)
    assert fates(workspace, max_size=250_000) == {"c0": "", "c1": "too much", "c2": ""}
    assert fates(workspace, max_size=0) == {"c0": "too much", "c1": "too much", "c2": "too much"}


def test_an_output_under_a_living_lock_stays_and_one_of_a_dead_holder_goes(workspace: Workspace) -> None:
    for name in ("held", "left"):
        output(workspace, "engines", name, days=40)
    code = (
        "import os, sys; from pathlib import Path; from enginepress.workspace import Workspace;"
        "Workspace(Path(sys.argv[1])).lock('engines-left', about='x').__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(workspace.root)], check=False)
    with workspace.lock("engines-held", about="building"):
        assert fates(workspace, older_than=DAY) == {"held": "locked", "left": "old"}
        plan = plan_workspace(workspace, older_than=DAY)
    with workspace.lock("engines-left", about="building"):  # taken after the plan was made
        assert prune_workspace(plan) == []


@pytest.mark.parametrize(("ended", "stays"), [("no", True), ("done", False), ("failed", False), ("long ago", False)])
def test_outputs_of_a_run_that_has_not_ended_stay(workspace: Workspace, ended: str, stays: bool) -> None:
    output(workspace, "engines", "e", days=40)
    plan = Plan("r1", "rev", "id", "e", "b", "c", 0)
    workspace.write_json({"step": "resolve", "status": "done", "facts": json.loads(plan.to_json())}, "runs", "r1", "resolve.json")
    record = {"no": ("build", "running"), "done": ("promote", "done"), "failed": ("build", "failed")}.get(
        ended, ("build", "running")
    )
    path = workspace.write_json(dict(zip(("step", "status"), record, strict=True)), "runs", "r1", f"{record[0]}.json")
    if ended == "long ago":
        for file in path.parent.iterdir():
            os.utime(file, (time.time() - 2 * DAY,) * 2)
    assert fates(workspace, older_than=DAY) == {"e": "of a run that is going on" if stays else "old"}
    if ended == "long ago":
        with workspace.lock("run-tiny", about="a run"):  # it may be this one, in a step that takes days
            assert fates(workspace, older_than=DAY) == {"e": "of a run that is going on"}


def test_an_output_used_after_the_plan_was_made_stays(workspace: Workspace) -> None:
    folder = output(workspace, "engines", "old", days=40)
    plan = plan_workspace(workspace, older_than=DAY)
    workspace.find("engines", "old")
    assert prune_workspace(plan) == []
    assert folder.exists()


def test_hard_links_to_files_elsewhere_free_nothing(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.bin").write_bytes(b"x" * 500_000)
    folder = output(workspace, "checkpoints", "c", days=40, size=10)
    os.link(tmp_path / "mine.bin", folder / "output/mine.bin")
    plan = plan_workspace(workspace, older_than=DAY)
    assert plan.freed < 50_000
    prune_workspace(plan)
    assert (tmp_path / "mine.bin").stat().st_size == 500_000


def test_unfinished_downloads_and_reports_go_by_age(workspace: Workspace) -> None:
    for path in ("partial/checkpoint-files/abc", "reports/b-c/1/report.json"):
        workspace.path(path).parent.mkdir(parents=True)
        workspace.path(path).write_bytes(b"x" * 10_000)
    for path in (workspace.path("partial/checkpoint-files/abc"), workspace.path("reports/b-c")):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    assert fates(workspace, max_size=0) == {"abc": "too much", "b-c": ""}
    assert len(prune_workspace(plan_workspace(workspace, older_than=30 * DAY))) == 2
    assert not workspace.path("reports/b-c").exists()


def test_a_pruned_output_is_made_anew_when_it_is_needed(workspace: Workspace) -> None:
    output(workspace, "engines", "old", days=40)
    prune_workspace(plan_workspace(workspace, older_than=DAY))
    assert workspace.find("engines", "old") is None
    assert output(workspace, "engines", "old", days=0).exists()


def test_a_workspace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is not there"):
        plan_workspace(Workspace(tmp_path / "nowhere"), older_than=DAY)


def test_the_command_shows_and_removes(workspace: Workspace) -> None:
    folder = output(workspace, "engines", "old", days=40)
    arguments = [sys.executable, "-m", "enginepress", "prune", "-w", str(workspace.root), "--older-than", "30d"]
    shown = subprocess.run([*arguments, "--dry-run"], capture_output=True, text=True, check=True)
    assert "goes   engines/old" in shown.stdout
    assert "1 go and free" in shown.stdout
    assert folder.exists()
    done = subprocess.run([*arguments, "--yes", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["removed"] == [str(folder)]
    assert not folder.exists()
