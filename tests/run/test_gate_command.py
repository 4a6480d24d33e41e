"""`enginepress gate` and `enginepress validate`, on what a run has left."""

from __future__ import annotations

import json
from pathlib import Path

from tests.run.conftest import Finished
from tests.run.recipes import PROMPTS, enginepress, write_recipe


def test_gate_asks_anew_and_publishes_nothing(finished: Finished) -> None:
    workspace = finished.folder / "workspace"
    done = enginepress("gate", finished.recipe, "-w", workspace, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert len(report["gate"]["prompts"]) == len(PROMPTS)
    assert len(list(workspace.glob("reports/*/*"))) == 2
    assert len(json.loads(enginepress("releases", finished.recipe, "--json").stdout)) == 1


def test_gate_holds_an_old_release_against_new_demands_and_says_what_failed(finished: Finished, checkpoint: Path) -> None:
    checks = {"prompts": [{"text": "Hello", "pattern": "certainly not"}], "load": {"min_tokens_per_second": 1e9, "requests": 2}}
    recipe = write_recipe(finished.folder, checkpoint, checks=checks, serving={"max_concurrent_requests": 12})
    done = enginepress("gate", recipe, "--release", "1", "-w", finished.folder / "workspace")
    assert done.returncode == 1
    assert "certainly not" in done.stdout
    assert "tokens per second" in done.stdout
    assert "report.html" in done.stdout


def test_gate_of_what_was_never_built_says_how_to_build_it(finished: Finished, checkpoint: Path) -> None:
    recipe = write_recipe(finished.folder, checkpoint, serving={"max_concurrent_requests": 13})
    done = enginepress("gate", recipe, "-w", finished.folder / "workspace")
    assert done.returncode == 1
    assert "enginepress run" in done.stderr


def test_validate_finds_a_release_sound_until_a_byte_of_it_changes(finished: Finished) -> None:
    release = finished.folder / "store" / "tiny" / "releases" / "1"
    assert enginepress("validate", release).returncode == 0
    victim = release / "repository" / "tiny" / "1" / "model.py"
    victim.chmod(0o644)
    victim.write_text(victim.read_text() + "\n# another line\n")
    done = enginepress("validate", release, "--json")
    assert done.returncode == 1
    assert "model.py" in done.stdout
    doctor = enginepress("doctor", finished.recipe, "-w", finished.folder / "workspace")
    assert doctor.returncode == 1
    assert "model.py is not what was published" in doctor.stdout
