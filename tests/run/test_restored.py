"""A disaster: store, MLflow and workspace are gone. After a restore the recipe is up to date, and the release passes its gate."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from enginepress.repository.place import content_digest_of
from tests.run.conftest import Finished
from tests.run.recipes import enginepress, run_json


@pytest.mark.slow
def test_after_a_disaster_the_backup_is_all_that_is_needed(finished: Finished, tmp_path: Path) -> None:
    site, kept = finished.folder, tmp_path / "kept"
    before = json.loads(enginepress("releases", finished.recipe, "--json").stdout)
    moves = enginepress("releases", finished.recipe, "--history", "--json").stdout
    assert enginepress("backup", site / "store", kept, "-w", site / "workspace").returncode == 0
    for lost in ("store", "workspace", "mlflow-artifacts"):
        shutil.rmtree(site / lost, ignore_errors=True)
    (site / "mlflow.db").unlink()

    done = enginepress("restore", kept, site / "store", "-w", site / "workspace", "--tracking-uri", f"sqlite:///{site}/mlflow.db")
    assert done.returncode == 0, done.stderr
    assert enginepress("verify", site / "store", "--deep").returncode == 0
    assert run_json(finished.recipe)["up_to_date"], "nothing is built, registered or promoted again"
    assert json.loads(enginepress("releases", finished.recipe, "--json").stdout) == before
    assert enginepress("releases", finished.recipe, "--history", "--json").stdout == moves
    served = Path(os.path.realpath(site / "store/tiny/channels/candidate"))
    assert content_digest_of(served) == before[0]["content_digest"]
    gated = enginepress("gate", finished.recipe, "--release", "1", "-w", site / "workspace")
    assert gated.returncode == 0, gated.stderr
    assert enginepress("doctor", finished.recipe, "-w", site / "workspace").returncode == 0
