"""A whole run from a hub: pinned, only what is needed, nothing asked for twice, a corrupt byte refused, a new revision built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.run.recipes import enginepress, run, run_json, write_recipe
from tests.sources.hub_server import Fault, HubServer


def test_a_run_from_a_hub(tmp_path: Path, checkpoint: Path) -> None:
    files = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    extra = {"README.md": b"words", "original/consolidated.00.pth": b"x" * 10, "model.gguf": b"y" * 10}
    with HubServer() as hub:
        first = hub.add_repo("org/tiny", {**files, **extra}, token="hf_secret_token", gated=True)
        hub.accept("org/tiny", "hf_secret_token")
        recipe = write_recipe(tmp_path, checkpoint, source="hf://org/tiny@main")
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret_token"}

        # A damaged byte of the right size never becomes a checkpoint.
        hub.faults.append(Fault("model.safetensors", corrupt_at=5000, times=1))
        damaged = run(recipe, env=env)
        assert damaged.returncode == 2
        assert "model.safetensors" in damaged.stderr
        assert "Traceback" not in damaged.stderr
        assert not (tmp_path / "workspace" / "checkpoints").exists()

        done = run(recipe, "--json", env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["revision"] == first
        fetched = {Path(p).name for p in hub.downloads()}
        assert "model.safetensors" in fetched
        assert not fetched & {"README.md", "consolidated.00.pth", "model.gguf"}

        # Nothing moved: one question, no download.
        hub.requests.clear()
        again = run(recipe, "--json", env=env)
        assert json.loads(again.stdout)["up_to_date"]
        assert len(hub.requests) == 1

        # A commit that changes nothing that is built from is no new build; one that does is.
        hub.commit("org/tiny", {**files, **extra, "README.md": b"other words"})
        assert json.loads(run(recipe, "--json", env=env).stdout)["up_to_date"]
        config = json.loads(files["config.json"])
        config["rms_norm_eps"] = 1.5e-5
        newest = hub.commit("org/tiny", {**files, **extra, "config.json": json.dumps(config).encode()})
        rebuilt = run(recipe, "--json", env=env)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert json.loads(rebuilt.stdout)["revision"] == newest
        assert json.loads(rebuilt.stdout)["release"] == 2

        # The token went to the hub, and is nowhere in what was left behind.
        for path in tmp_path.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert b"hf_secret_token" not in path.read_bytes(), path


def test_a_gated_model_without_access_says_what_to_do(tmp_path: Path, checkpoint: Path) -> None:
    with HubServer() as hub:
        hub.add_repo("org/tiny", checkpoint, token="hf_secret_token", gated=True)
        recipe = write_recipe(tmp_path, checkpoint, source="hf://org/tiny")
        done = run(recipe, env={"HF_ENDPOINT": hub.url, "HF_TOKEN": ""})
    assert done.returncode == 2
    assert "org/tiny" in done.stderr
    assert "HF_TOKEN" in done.stderr


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path, checkpoint: Path) -> None:
    recipe = write_recipe(tmp_path, checkpoint, source="hf://org/tiny")
    done = run(recipe, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reference_is_made_from_the_checkpoint_and_the_build_is_held_against_it(tmp_path: Path, checkpoint: Path) -> None:
    prompts = [{"text": "Hello there", "max_tokens": 5}]
    recipe = write_recipe(tmp_path, checkpoint, checks={"prompts": prompts, "reference": "reference.json"})
    early = run(recipe)
    assert early.returncode == 2
    assert "enginepress reference" in early.stderr
    made = enginepress("reference", recipe, "-w", tmp_path / "workspace")
    assert made.returncode == 0, made.stderr
    assert run_json(recipe)["release"] == 1
    (report,) = (tmp_path / "workspace" / "reports").glob("*/1/report.json")
    gate = json.loads(report.read_text())["gate"]
    assert gate["agreement"]["matched"] == gate["agreement"]["of"] > 0
