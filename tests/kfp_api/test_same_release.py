"""What was submitted, taken back from the server and run here: the same release as `enginepress run` makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.compile_options import CompileOptions, Mount
from enginepress.recipe_file import load_recipe
from enginepress.run.api import Api
from enginepress.run.cluster import submit
from enginepress.run.packages import package_of
from enginepress.run.reach import check_reach
from enginepress.stores.open import open_store
from tests.kfp_api.mountable import EXAMPLES
from tests.kfp_api.server import KfpApi
from tests.run.recipes import run_json, write_recipe

CHECKPOINT = EXAMPLES / "checkpoints" / "tiny-llama"


@pytest.fixture
def site() -> Iterator[Path]:
    """Not under /tmp, where a step's scratch volume is mounted."""
    folder = Path(tempfile.mkdtemp(prefix="enginepress-test-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pipeline_and_parameters_that_the_server_got_make_the_same_release(kfp_api: KfpApi, quick: Api, site: Path) -> None:
    here = write_recipe(site / "here", CHECKPOINT)
    run_json(here)
    there = write_recipe(site / "there", CHECKPOINT)
    recipe = load_recipe(there)
    options = CompileOptions(
        image="registry.example.org/enginepress@sha256:" + "a" * 64,
        store=str(site / "there"),
        mounts=(Mount("checkpoints", str(CHECKPOINT)),),
        retries=0,
    )
    check_reach(recipe, options)
    submit(recipe, quick.connection, package=package_of("build_and_publish", options, cache=site / "cache"), api=quick)

    (version,), (sent,) = kfp_api.backend.versions.values(), kfp_api.asked("POST", "/runs")
    assert sent.body["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    file = site / "from-the-server.yaml"
    file.write_text(kfp_api.backend.packages[version["pipeline_version_id"]])
    parameters = json.dumps(sent.body["runtime_config"]["parameters"])
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.run_compiled", str(file), str(site / "kfp"), parameters],
        env={**os.environ, "ENGINEPRESS_WORKSPACE": str(site / "workspace")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    digests = []
    for path in (here, there):
        loaded = load_recipe(path)
        digests.append(open_store(loaded.stores[0]).manifest(loaded.name, 1).content_digest)
    assert digests[0] == digests[1]
