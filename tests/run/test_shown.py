"""What Kubeflow shows of each step, made by kfp's local runner: summaries, metrics, the report, and what came from what."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enginepress.recipe_file import load_recipe, travelling_json
from enginepress.run.compiled import compile_pipeline, local_options
from enginepress.steps import STEPS, shown
from enginepress.steps.failed_gate import failed_gate_page
from enginepress.steps.job import Job, Plan
from enginepress.stores.open import open_store
from enginepress.workspace import ENVIRONMENT, Workspace
from tests.run.recipes import write_recipe


@dataclass(frozen=True)
class Looked:
    """The artifacts of one run: text and metadata by step and name."""

    root: Path
    site: Path
    text: dict[str, dict[str, str]]
    metadata: dict[str, dict[str, dict[str, Any]]]


def _run(site: Path, checkpoint: Path, root: Path) -> Looked:
    """Runs what is compiled, and keeps what a cluster would keep in its object store."""
    from kfp import components, local

    recipe = load_recipe(write_recipe(site, checkpoint))
    package = site / "pipeline.yaml"
    package.write_text(compile_pipeline("build_and_publish", local_options()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = components.load_component_from_file(str(package))
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        pipeline(recipe=travelling_json(recipe), recipe_digest=recipe.digest())
    text: dict[str, dict[str, str]] = {}
    metadata: dict[str, dict[str, dict[str, Any]]] = {}
    for output in root.glob("*/*/executor_output.json"):
        step = output.parent.name
        for name, listed in json.loads(output.read_text()).get("artifacts", {}).items():
            (artifact,) = listed["artifacts"]
            metadata.setdefault(step, {})[name] = artifact.get("metadata", {})
            path = Path(artifact["uri"])
            text.setdefault(step, {})[name] = path.read_text() if path.is_file() else ""
    return Looked(root, site, text, metadata)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Looked:
    site = tmp_path_factory.mktemp("looked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(site / "workspace"))
        patch.setenv("ENGINEPRESS_RUN", "looked-at")
        return _run(site / "site", checkpoint, site / "kfp")


def test_every_step_leaves_a_summary(looked: Looked) -> None:
    for step in STEPS:
        assert looked.text[step]["summary"].startswith("# tiny: "), step
    assert "build key" in looked.text["resolve"]["summary"]
    assert "Nothing to do: onnxruntime reads checkpoints as they are." in looked.text["convert"]["summary"]
    assert "moved to it" in looked.text["promote"]["summary"]


def test_the_gate_leaves_its_report_and_its_figures(looked: Looked) -> None:
    assert "<svg" in looked.text["verify"]["report"]
    assert "All" in looked.text["verify"]["summary"]
    metrics = looked.metadata["verify"]["metrics"]
    assert metrics["checks"] >= 5
    assert metrics["ready_s"] > 0
    assert looked.metadata["build"]["metrics"]["bytes"] > 0


def test_a_release_leads_back_to_its_engine_and_that_to_the_checkpoints_revision(looked: Looked) -> None:
    checkpoint, engine, release = (
        looked.metadata[step][name] for step, name in (("download", "checkpoint"), ("build", "engine"), ("publish", "release"))
    )
    assert release["engine_key"] == engine["engine_key"]
    assert release["revision"] == engine["revision"] == checkpoint["revision"]
    assert release["revision_digest"] == engine["revision_digest"] == checkpoint["revision_digest"]
    assert Path(engine["where"]).is_dir()
    assert Path(checkpoint["where"]).is_dir()
    manifest = open_store(load_recipe(looked.site / "recipe.yaml").stores[0]).manifest("tiny", release["release"])
    assert (release["build_key"], release["manifest_digest"]) == (manifest.build_key, manifest.digest)
    assert json.loads(looked.text["publish"]["release"]) == release


def test_what_goes_through_the_object_store_is_small(looked: Looked) -> None:
    sizes = {p: p.stat().st_size for p in looked.root.rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 500_000, sizes
    assert not [p for p in sizes if p.suffix in (".safetensors", ".onnx", ".data")]


def test_a_run_with_little_to_do_shows_what_is_there(looked: Looked, checkpoint: Path, tmp_path: Path) -> None:
    """Every step shows something, too, where the release exists already."""
    workspace = Workspace(looked.site.parent / "workspace")
    recipe = load_recipe(looked.site / "recipe.yaml")
    facts = workspace.read_json("runs", "looked-at-tiny", "resolve.json") or workspace.read_json(
        "runs", "looked-at", "resolve.json"
    )
    plan = Plan(**{**facts["facts"], "release": 1})
    empty = Workspace(tmp_path / "other")
    for place in (workspace, empty):
        job = Job(recipe, place, "again")
        for step in STEPS:
            found = shown.shown(step, job, plan, {"skipped": "release 1 is built already", "release": 1})
            assert found.summary.startswith("# tiny"), step
    assert shown.shown("build", Job(recipe, empty, "again"), plan, {}).made["where"] == ""


def test_what_cannot_be_shown_does_not_fail_a_step_that_is_done(looked: Looked, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(looked.site / "recipe.yaml")
    plan = Plan("r", "0" * 64, "x", "0" * 64, "0" * 64, "0" * 64, 77, {"environment": {}})
    shown.leave("publish", Job(recipe, Workspace(looked.site.parent / "workspace"), "r"), plan, {}, {"summary": None})
    assert "publish is done; it could not be shown" in capsys.readouterr().err


def test_the_report_of_a_gate_that_failed_is_shown_by_the_exit_handler(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    assert "No gate failed" in failed_gate_page(workspace, "r")
    page = workspace.path("reports", "key", "1", "report.html")
    page.parent.mkdir(parents=True)
    page.write_text("<html>what the gate found</html>")
    secret = tmp_path / "elsewhere.html"
    secret.write_text("not a report")
    for place, shown_text in (
        (page, "what the gate found"),
        (secret, "No gate failed"),
        (page.with_name("x.html"), "No gate failed"),
    ):
        failed = {"step": "verify", "status": "failed", "error": {"message": "1 of 9 checks failed", "where": str(place)}}
        workspace.write_json(failed, "runs", "r-tiny", "verify.json")
        assert shown_text in failed_gate_page(workspace, "r")
