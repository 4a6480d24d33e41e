"""Whole runs with stores on S3: the primary store there and a folder as the second, and the other way round."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.repository.place import content_digest_of
from enginepress.serving.tritonserver import TritonServer
from tests.run.conftest import Finished
from tests.run.recipes import enginepress, run, run_json, write_recipe
from tests.run.test_serve import serving
from tests.s3_server import S3Server
from tests.s3_server.fixtures import server_in_environment

pytest.importorskip("boto3")
S3 = "s3://bucket/models"


pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with server_in_environment(monkeypatch) as running:
        yield running


def _said(*arguments: str | Path) -> str:
    done = enginepress(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _only_built(finished: Finished) -> None:
    """As if it had been built and gated, and nothing published."""
    shutil.rmtree(finished.folder / "store")
    (finished.folder / "mlflow.db").unlink()


def test_a_primary_store_on_s3_and_a_second_one_in_a_folder(finished: Finished, checkpoint: Path, server: S3Server) -> None:
    _only_built(finished)
    stores = [{"url": S3, "endpoint": server.url}, f"file://{finished.folder}/second"]
    recipe = write_recipe(finished.folder, checkpoint, stores=stores, channels=["candidate", "production"])
    assert run_json(recipe)["release"] == 1
    assert "up to date: tiny release 1" in run(recipe).stdout
    changed = write_recipe(
        finished.folder, checkpoint, stores=stores, channels=["candidate", "production"], serving={"max_concurrent_requests": 5}
    )
    assert run_json(changed)["release"] == 2
    workspace = finished.folder / "workspace"
    rows = json.loads(_said("releases", changed, "--json"))
    assert [(r["release"], r["channels"], r["model_version"]) for r in rows] == [
        (1, [], "1"),
        (2, ["candidate", "production"], "2"),
    ]
    second = finished.folder / "second" / "tiny"
    assert content_digest_of(second / "releases/2/repository") == rows[1]["content_digest"]
    assert os.readlink(second / "channels/production").startswith("../activations/production-2-")

    _said("rollback", changed, "-c", "production", "-w", workspace)
    assert [r["channels"] for r in json.loads(_said("releases", changed, "--json"))] == [["production"], ["candidate"]]
    assert os.readlink(second / "channels/production").startswith("../activations/production-1-")
    _said("promote", changed, "2", "-c", "production", "-w", workspace)
    assert "error" not in _said("doctor", changed, "-w", workspace)
    assert json.loads(_said("releases", f"{S3}/tiny", "--json")) == json.loads(_said("releases", changed, "--json"))

    pulled = finished.folder / "pulled"
    _said("pull", S3, "tiny", "--channel", "production", "--to", pulled)
    assert content_digest_of(pulled / "current") == rows[1]["content_digest"]


@pytest.mark.slow
def test_a_primary_store_in_a_folder_and_a_second_one_on_s3(finished: Finished, checkpoint: Path, server: S3Server) -> None:
    workspace = finished.folder / "workspace"
    _said("promote", write_recipe(finished.folder, checkpoint), "1", "-c", "production", "--new", "-w", workspace)
    recipe = write_recipe(finished.folder, checkpoint, stores=[f"file://{finished.folder}/store", S3])
    assert run_json(recipe)["release"] == 1
    (row,) = json.loads(_said("releases", f"{S3}/tiny", "--json"))
    manifest = json.loads((finished.folder / "store/tiny/releases/1/manifest.json").read_text())
    assert (row["release"], row["channels"], row["content_digest"]) == (1, ["candidate"], manifest["content_digest"])
    described = server.buckets["bucket"].current("models/tiny/model.json")
    assert described is not None
    assert json.loads(described.data)["primary"] == f"file://{finished.folder}/store"
    # The channel that the recipe does not name: a store that is named later follows when it is mended.
    assert f"channel production in {S3}: is not there" in enginepress("doctor", recipe, "-w", workspace).stdout
    _said("doctor", recipe, "-w", workspace, "--repair")
    (row,) = json.loads(_said("releases", f"{S3}/tiny", "--json"))
    assert row["channels"] == ["candidate", "production"]
    assert "error" not in _said("doctor", recipe, "-w", workspace)
    assert "up to date: tiny release 1" in run(recipe).stdout


@pytest.mark.slow
def test_serve_follows_a_channel_on_s3(finished: Finished, checkpoint: Path, server: S3Server) -> None:
    _only_built(finished)
    run_json(write_recipe(finished.folder, checkpoint, stores=[S3]))
    second = write_recipe(finished.folder, checkpoint, stores=[S3], serving={"max_concurrent_requests": 5})
    with serving(second, "candidate", finished.folder / "serve.log") as served:
        assert served.ask()["model_version"] == "1"
        assert run_json(second)["release"] == 2
        for wanted in (2, 1, 2):
            _said("promote", second, str(wanted), "-c", "candidate", "-w", finished.folder / "workspace")
            deadline = time.monotonic() + 60
            while served.ask()["model_version"] != str(wanted):
                assert time.monotonic() < deadline, served.log.read_text()
                time.sleep(0.1)


@pytest.mark.slow
def test_triton_reads_a_release_from_s3_itself(finished: Finished, checkpoint: Path, server: S3Server, tmp_path: Path) -> None:
    """Builders whose configs hold no paths need no pull: the release's own address is a model repository."""
    _only_built(finished)
    recipe = write_recipe(finished.folder, checkpoint, stores=[S3])
    run_json(recipe)
    (row,) = json.loads(_said("releases", recipe, "--json"))
    address = row["folder"].replace("s3://", f"s3://{server.url}/")
    (tmp_path / "nothing").mkdir()
    arguments = [f"--model-repository={address}"]
    with TritonServer(tmp_path / "nothing", models=["tiny"], log=tmp_path / "server.log", extra_args=arguments) as triton:
        body = json.dumps({"text_input": "Hello", "max_tokens": 3}).encode()
        with urllib.request.urlopen(f"http://{triton.http}/v2/models/tiny/generate", body, timeout=60) as answer:
            assert json.load(answer)["model_version"] == "1"
