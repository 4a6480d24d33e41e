"""The main job as a user does it: one command, a release; again, nothing to do; changed demands, only what is missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginepress.lockfile import parse_lock
from enginepress.repository.place import content_digest_of
from enginepress.steps import STEPS
from tests.run.conftest import Finished
from tests.run.recipes import PROMPTS, enginepress, run, run_json, write_recipe


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time: what was touched shows."""
    return {str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*") if not p.is_dir()}


def test_a_run_ends_with_a_release_that_is_gated_registered_and_promoted(finished_once: Finished) -> None:
    assert finished_once.result["release"] == 1
    assert not finished_once.result["up_to_date"]
    assert list(finished_once.result["steps"]) == list(STEPS)
    done = enginepress("releases", finished_once.recipe, "--json")
    (row,) = json.loads(done.stdout)
    assert row["channels"] == ["candidate"]
    assert row["gated"]
    assert row["model_version"] == "1"
    assert row["build_key"] == finished_once.result["build_key"]
    assert content_digest_of(Path(row["folder"])) == row["content_digest"]


def test_the_report_is_there_for_people_and_for_scripts(finished_once: Finished) -> None:
    (folder,) = (finished_once.folder / "workspace" / "reports").glob("*/1")
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"]
    assert "<svg" in (folder / "report.html").read_text()
    assert finished_once.result["build_key"][:12] in (folder / "report.md").read_text()


def test_an_unchanged_recipe_is_up_to_date_and_nothing_is_touched(finished: Finished) -> None:
    run_json(finished.recipe)
    before = _tree(finished.folder)
    done = run(finished.recipe)
    assert done.returncode == 0
    assert "up to date: tiny release 1" in done.stdout
    assert _tree(finished.folder) == before


def test_a_changed_build_field_makes_a_second_release_and_keeps_the_first(
    finished_once: Finished, finished_twice_once: Finished
) -> None:
    assert finished_twice_once.result["release"] == 2
    assert finished_twice_once.result["build_key"] != finished_once.result["build_key"]
    rows = json.loads(enginepress("releases", finished_twice_once.recipe, "--json").stdout)
    assert [r["channels"] for r in rows] == [[], ["candidate"]]
    engines = list((finished_twice_once.folder / "workspace" / "engines").iterdir())
    assert len(engines) == 1, "the engine does not depend on how it is served"


@pytest.mark.parametrize(
    "keep_workspace",
    [
        pytest.param(True, id="with its workspace"),
        pytest.param(False, marks=pytest.mark.slow, id="with an empty workspace"),
    ],
)
def test_a_new_channel_and_a_new_store_are_served_without_a_rebuild(
    finished: Finished, checkpoint: Path, keep_workspace: bool
) -> None:
    if not keep_workspace:
        shutil.rmtree(finished.folder / "workspace")
    stores = [f"file://{finished.folder}/store", f"file://{finished.folder}/second"]
    recipe = write_recipe(finished.folder, checkpoint, channels=["candidate", "production"], stores=stores)
    result = run_json(recipe)
    assert result["release"] == 1
    steps = {p.stem: json.loads(p.read_text()) for p in (finished.folder / "workspace" / "runs" / result["run"]).glob("*.json")}
    for step in ("download", "convert", "build", "assemble", "verify"):
        assert "skipped" in steps[step]["facts"]
    assert steps["promote"]["facts"]["moved"] == ["production"]
    assert steps["register"]["facts"]["model_version"] == 1, "the same version, now with both stores"
    assert run_json(recipe)["up_to_date"]
    for store in ("store", "second"):
        for channel in ("candidate", "production"):
            link = finished.folder / store / "tiny" / "channels" / channel
            assert (link / "tiny" / "1" / "model.py").exists()
    first, second = (finished.folder / s / "tiny" / "releases" / "1" / "repository" for s in ("store", "second"))
    assert content_digest_of(first) == content_digest_of(second)


@pytest.mark.slow
def test_another_registry_gets_the_release_and_its_aliases_without_a_rebuild(finished: Finished, checkpoint: Path) -> None:
    from enginepress.recipe_file import load_recipe
    from enginepress.registry import MlflowRegistry

    uri = f"sqlite:///{finished.folder}/other.db"
    recipe = write_recipe(finished.folder, checkpoint, registry={"tracking_uri": uri})
    assert run_json(recipe)["release"] == 1
    assert MlflowRegistry(load_recipe(recipe).registry, default_uri=uri).alias("tiny", "candidate") == 1
    assert run_json(recipe)["up_to_date"]


def test_stricter_checks_run_the_gate_again_and_nothing_else(finished: Finished, checkpoint: Path) -> None:
    checks = {"prompts": [*PROMPTS, {"text": "One more", "max_tokens": 3}]}
    result = run_json(write_recipe(finished.folder, checkpoint, checks=checks))
    assert result["release"] == 1
    steps = {p.stem: json.loads(p.read_text()) for p in (finished.folder / "workspace" / "runs" / result["run"]).glob("*.json")}
    assert "skipped" not in steps["verify"]["facts"]
    assert "skipped" in steps["build"]["facts"]
    assert run_json(finished.recipe)["up_to_date"]


def test_a_gate_that_fails_publishes_nothing_and_says_which_check_and_why(finished: Finished, checkpoint: Path) -> None:
    checks = {"prompts": [{"text": "Hello", "max_tokens": 4, "pattern": "certainly not in there"}]}
    recipe = write_recipe(finished.folder, checkpoint, checks=checks, serving={"max_concurrent_requests": 6})
    done = run(recipe)
    assert done.returncode == 1
    assert "certainly not in there" in done.stderr
    assert "report.html" in done.stderr
    assert len(json.loads(enginepress("releases", recipe, "--json").stdout)) == 1
    (failed,) = [
        p for p in (finished.folder / "workspace" / "reports").glob("*/1/report.json") if not json.loads(p.read_text())["passed"]
    ]
    again = run(recipe)
    assert again.returncode == 1, "a failed gate is not a complete output"
    assert (failed.parent.parent / "2").exists()


@pytest.mark.slow
def test_force_builds_again_and_the_same_content_stays_the_same_release(finished: Finished) -> None:
    (engine,) = (finished.folder / "workspace" / "engines").iterdir()
    before = json.loads((engine / "record.json").read_text())["started"]
    result = run_json(finished.recipe, "--force")
    assert result["release"] == 1
    assert json.loads((engine / "record.json").read_text())["started"] > before


def test_a_rollback_is_not_undone_by_the_next_run(finished_twice: Finished) -> None:
    recipe = finished_twice.recipe
    done = enginepress("rollback", recipe, "--channel", "candidate", "-w", finished_twice.folder / "workspace")
    assert done.returncode == 0, done.stderr
    assert "back on release 1" in done.stdout
    run_json(recipe)  # registers the copy
    after = run_json(recipe)
    assert after["up_to_date"]
    assert "candidate is on release 1" in after["notes"][0]


def test_a_rollback_after_a_promotion_undoes_it(finished_twice: Finished) -> None:
    """As the README has it: release 2 is on the channel, 1 is promoted by hand, and the rollback leads back to 2."""
    recipe = finished_twice.recipe
    where = ("-c", "candidate", "-w", finished_twice.folder / "workspace")
    assert enginepress("promote", recipe, "1", *where).returncode == 0
    back = enginepress("rollback", recipe, *where)
    assert "back on release 2" in back.stdout, back.stderr
    again = enginepress("rollback", recipe, *where)
    assert "back on release 1" in again.stdout, again.stderr
    last = enginepress("rollback", recipe, *where)
    assert last.returncode == 1
    assert "no earlier release" in last.stderr


def test_what_no_server_has_loaded_stays_on_candidate_until_it_is_gated(built: Path, checkpoint: Path) -> None:
    recipe = write_recipe(built, checkpoint, checks={"served": False})
    assert run_json(recipe)["release"] == 1
    manifest = json.loads((built / "store/tiny/releases/1/manifest.json").read_text())
    assert manifest["made_with"]["gate"] == "unserved"
    refused = enginepress("promote", recipe, "1", "-c", "production", "-w", built / "workspace")
    assert refused.returncode == 1
    assert "published unserved" in refused.stderr
    write_recipe(built, checkpoint)
    again = run_json(recipe)
    assert again["release"] == 1, "the same release, gated now"
    allowed = enginepress("promote", recipe, "1", "-c", "production", "-w", built / "workspace")
    assert allowed.returncode == 0, allowed.stderr


def test_a_misspelt_channel_is_not_made(finished: Finished) -> None:
    wrong = enginepress("promote", finished.recipe, "1", "-c", "candidat")
    assert wrong.returncode == 2
    assert "did you mean 'candidate'" in wrong.stderr
    meant = enginepress("promote", finished.recipe, "1", "-c", "candidat", "--new", "-w", finished.folder / "workspace")
    assert "candidat is on release 1 (a new channel)" in meant.stdout
    other = enginepress("promote", finished.recipe, "1", "-c", "production", "-w", finished.folder / "workspace")
    assert "production is on release 1 (a new channel)" in other.stdout


def test_a_damaged_release_does_not_bar_the_way_to_the_others(finished_twice: Finished) -> None:
    manifest = finished_twice.folder / "store" / "tiny" / "releases" / "1" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("int", "ind").replace('"release": 1', '"release": 5'))
    target = finished_twice.folder / "store" / "tiny"
    first, second = json.loads(enginepress("releases", target, "--json").stdout)
    assert first["damage"]
    assert second["channels"] == ["candidate"]
    assert enginepress("promote", target, "2", "-c", "production").returncode == 0
    doctor = enginepress("doctor", target, "-w", finished_twice.folder / "workspace")
    assert doctor.returncode == 1
    assert "channel production: release 2" in doctor.stdout


def test_a_release_that_lost_a_file_is_published_anew_and_the_channel_moves_on(finished: Finished) -> None:
    (finished.folder / "store/tiny/releases/1/repository/tiny/1/model.py").unlink()
    (engine,) = (finished.folder / "workspace" / "engines").iterdir()
    built = (engine / "record.json").read_bytes()
    result = run_json(finished.recipe)
    assert (result["up_to_date"], result["release"]) == (False, 2)
    assert result["notes"] == ["release 1 is not whole any more: tiny/1/model.py is missing; release 2 stands in its stead"]
    steps = {p.stem: json.loads(p.read_text()) for p in (finished.folder / "workspace" / "runs" / result["run"]).glob("*.json")}
    assert (engine / "record.json").read_bytes() == built, "the workspace still has what was built"
    assert steps["promote"]["facts"]["moved"] == ["candidate"]
    manifest = json.loads((finished.folder / "store/tiny/releases/2/manifest.json").read_text())
    assert manifest["made_with"]["instead_of"] == 1
    assert manifest["build_key"] == result["build_key"]
    again = run_json(finished.recipe)
    assert (again["up_to_date"], again["release"], again["notes"]) == (True, 2, [])


def test_a_secret_that_is_not_set_is_noticed_before_anything_is_built(finished: Finished, checkpoint: Path) -> None:
    registry = {"tracking_uri": "http://127.0.0.1:9", "token": "${ENGINEPRESS_TEST_NOT_SET}"}
    recipe = write_recipe(finished.folder, checkpoint, registry=registry, serving={"max_concurrent_requests": 16})
    done = run(recipe, "--json")
    assert done.returncode == 2
    assert "ENGINEPRESS_TEST_NOT_SET" in done.stderr
    assert json.loads(done.stdout)["error"]["where"] == "registry.token"
    assert len(list((finished.folder / "workspace" / "repositories").iterdir())) == 1


def test_operators_can_name_the_store_instead_of_the_recipe(finished: Finished) -> None:
    target = f"file://{finished.folder}/store/tiny"
    done = enginepress("promote", target, "1", "--channel", "production", "--why", "a test")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(enginepress("releases", target, "--json").stdout)
    assert row["channels"] == ["candidate", "production"]


def test_an_unreachable_registry_leaves_the_release_published_and_doctor_finishes(finished: Finished, checkpoint: Path) -> None:
    changes: dict[str, Any] = {"serving": {"max_concurrent_requests": 8}}
    recipe = write_recipe(finished.folder, checkpoint, registry={"tracking_uri": "http://127.0.0.1:9"}, **changes)
    done = run(recipe, env={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert done.returncode == 1
    assert "published" in done.stderr
    recipe = write_recipe(finished.folder, checkpoint, **changes)
    workspace = finished.folder / "workspace"
    assert enginepress("doctor", recipe, "-w", workspace).returncode == 1
    mended = enginepress("doctor", recipe, "-w", workspace, "--repair")
    assert mended.returncode == 0, mended.stdout
    assert enginepress("doctor", recipe, "-w", workspace).returncode == 0
    result = run_json(recipe)
    assert result["release"] == 2
    assert not result["up_to_date"], "the channel was not moved yet"


@pytest.mark.slow
def test_a_place_with_an_odd_name_is_a_place_like_others(tmp_path: Path, checkpoint: Path) -> None:
    """kfp's local runner rewrites `python3` in parameters, and opens `{{$`; Triton trips over spaces."""
    recipe = write_recipe(tmp_path / "a python3 site, it's {{$.odd}} ünd so", checkpoint)
    assert run_json(recipe)["release"] == 1
    assert run_json(recipe)["up_to_date"]


def test_two_runs_at_once_make_one_release(built: Path, checkpoint: Path) -> None:
    import subprocess
    import sys

    recipe = write_recipe(built, checkpoint)
    command = [sys.executable, "-m", "enginepress", "run", str(recipe), "-w", str(built / "workspace"), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], ended
    results = [json.loads(out) for out, _ in ended]
    assert sorted(r["up_to_date"] for r in results) == [False, True]
    assert any("waiting for a run of tiny" in err for _, err in ended)


def test_a_second_run_that_will_not_wait_says_who_is_at_it(finished: Finished, checkpoint: Path) -> None:
    from enginepress.workspace import Workspace

    recipe = write_recipe(finished.folder, checkpoint, serving={"max_concurrent_requests": 9})
    with Workspace(finished.folder / "workspace").lock("run-tiny", about="a run of tiny"):
        done = run(recipe, "--no-wait")
    assert done.returncode == 1
    assert f"a run of tiny (process {os.getpid()}" in done.stderr


def test_the_lock_of_what_was_built_lies_beside_the_release(finished_once: Finished) -> None:
    release = finished_once.folder / "store" / "tiny" / "releases" / "1"
    lock = parse_lock(json.loads((release / "records" / "lock.json").read_text()))
    manifest = json.loads((release / "manifest.json").read_text())
    assert lock.revision.digest == manifest["made_from"]["revision_digest"]
    assert set(lock.sha256) == {f.path for f in lock.revision.files}
