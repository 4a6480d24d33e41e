"""A whole run from NGC, with a key, without published digests, with a lock beside the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.run.recipes import enginepress, run, write_recipe
from tests.sources.ngc_server import NgcServer

KEY = "nvapi-thisKeyIsSecretAndStaysSo"


@pytest.mark.slow
def test_a_run_from_ngc_with_a_lock(tmp_path: Path, checkpoint: Path) -> None:
    files = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    with NgcServer() as ngc:
        model = ngc.add_model("org/team/tiny", {"1.0": files}, keys={KEY})
        model.publishes = False
        recipe = write_recipe(tmp_path, checkpoint, source="ngc://org/team/tiny")
        env = {**ngc.environment, "NGC_API_KEY": KEY}
        place = ["-w", tmp_path / "workspace"]

        locked = enginepress("lock", recipe, *place, env=env)
        assert locked.returncode == 0, locked.stderr
        ngc.requests.clear()
        done = run(recipe, "--json", env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["revision"] == "1.0"
        assert ngc.downloads() == ["config.json"], "all else that was locked lies in the workspace"

        # A newer version moves the source, and not what the recipe is built from.
        model.versions["1.1"] = {**files, "generation_config.json": b'{"do_sample": false}'}
        assert json.loads(run(recipe, "--json", env=env).stdout)["up_to_date"]
        (state,) = json.loads(enginepress("outdated", recipe, "--json", *place, env=env).stdout)
        assert (state["status"], state["known"], state["latest"]) == ("moved", "1.0", "1.1")

        # Without its lock the recipe is compared with its newest release, and would take the newer version.
        (tmp_path / "recipe.lock.json").unlink()
        (state,) = json.loads(enginepress("outdated", recipe, "--json", *place, env=env).stdout)
        assert (state["status"], state["since"], state["known"]) == ("moved", "release 1", "1.0")

        for path in tmp_path.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert KEY.encode() not in path.read_bytes(), path
