"""A run with a key in its environment: what is published is signed, and what is not signed by it goes nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.conftest import Finished
from tests.run.recipes import enginepress, run, run_json, write_recipe
from tests.trust.keys import write_pair


@pytest.mark.slow
def test_a_run_signs_what_is_there_once_and_another_key_does_not_do(
    finished: Finished, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, other = write_pair(tmp_path / "keys", "release"), write_pair(tmp_path / "keys", "other")
    signing = {"key": "${RELEASE_KEY}", "public_key": str(pair.public), "require": True}
    recipe = write_recipe(finished.folder, checkpoint, signing=signing)
    monkeypatch.delenv("RELEASE_KEY", raising=False)
    refused = run(recipe)
    assert refused.returncode == 2
    assert "signing.key: names the environment variable RELEASE_KEY, which is not set" in refused.stderr
    monkeypatch.setenv("RELEASE_KEY", pair.private.read_text())
    assert run_json(recipe)["release"] == 1
    assert run_json(recipe)["up_to_date"]
    assert enginepress("verify", recipe).returncode == 0
    for path in (finished.folder / "workspace").rglob("*"):
        assert not path.is_file() or path.stat().st_size > 1_000_000 or b"PRIVATE KEY" not in path.read_bytes(), path

    signing["public_key"] = str(other.public)
    recipe = write_recipe(finished.folder, checkpoint, signing=signing, channels=["candidate", "production"])
    done = run(recipe)
    assert done.returncode == 1
    assert "not by the trusted key" in done.stderr
    assert not (finished.folder / "store/tiny/channels/production").exists()
