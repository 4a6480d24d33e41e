"""Several models in one server, and readers of a store that is no folder."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.repository.place import content_digest_of
from enginepress.serving.tritonserver import TritonServer
from enginepress.stores.filesystem import FileStore
from enginepress.stores.s3 import S3Store
from tests.readers.site import Clients, ask, promote, publish, pull_command, pulling, toy_recipe, toy_release
from tests.run.test_serve import serving
from tests.s3_server import S3Server
from tests.s3_server.fixtures import server_in_environment
from tests.stores.s3.stores import a_store

INPUTS = {"text_input": "say it", "max_tokens": 2}
MODELS = ("reader", "reader-2")
"""One name begins with the other, as models behind an ensemble begin with their ensemble's."""


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Two models with two releases each; both channels name the first."""
    store = FileStore(tmp_path / "store")
    for model in MODELS:
        for word in ("alpha", "beta"):
            publish(store, toy_release(tmp_path / model / word, f"{model}-{word}", name=model), toy_recipe(model))
        promote(store, model, 1)
    return store


def test_one_server_serves_two_models_of_one_store_from_their_channels(store: FileStore, tmp_path: Path) -> None:
    first, second = (store.channel_path(model, "production") for model in MODELS)
    with TritonServer(
        first,
        log=tmp_path / "log",
        control_mode="explicit",
        exit_timeout_s=0,
        extra_args=[f"--model-repository={second}"],
    ) as server:
        assert "--load-model=*" in (tmp_path / "log").read_text()
        for model in MODELS:
            assert ask(server.http, model, INPUTS) == ("1", f" {model}-alpha" * 2)


@pytest.mark.slow
def test_two_pullers_move_their_own_model_of_one_server_and_leave_the_other_alone(store: FileStore, tmp_path: Path) -> None:
    folders = [tmp_path / "readers" / model for model in MODELS]
    (tmp_path / "readers").mkdir()
    for model, folder in zip(MODELS, folders, strict=True):
        with pulling(store.root, model, folder) as puller:
            puller.until(lambda status: status.get("release") == 1)
    with TritonServer(
        folders[0] / "current",
        log=tmp_path / "log",
        models=MODELS,
        control_mode="explicit",
        exit_timeout_s=0,
        extra_args=[f"--model-repository={folders[1] / 'current'}"],
    ) as server:
        triton = ("--triton", f"http://{server.http}")
        with (
            pulling(store.root, MODELS[0], folders[0], *triton) as one,
            pulling(store.root, MODELS[1], folders[1], *triton) as two,
            Clients(server.http, MODELS[1], INPUTS, count=1) as clients,
        ):
            one.until(lambda status: status.get("serving") == 1)
            two.until(lambda status: status.get("serving") == 1)
            promote(store, MODELS[0], 2)
            one.until(lambda status: status.get("serving") == 2)
            assert ask(server.http, MODELS[0], INPUTS) == ("2", f" {MODELS[0]}-beta" * 2)
            assert ask(server.http, MODELS[1], INPUTS) == ("1", f" {MODELS[1]}-alpha" * 2)
    assert clients.errors == []
    assert set(clients.answers) == {("1", f" {MODELS[1]}-alpha" * 2)}


# S3 ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with server_in_environment(monkeypatch) as running:
        yield running


@pytest.fixture
def s3_store(s3_server: S3Server, tmp_path: Path) -> S3Store:
    store = a_store()
    for word in ("alpha", "beta"):
        publish(store, toy_release(tmp_path / word, word), toy_recipe())
    promote(store, "toy", 1)
    return store


def test_a_puller_follows_a_channel_of_an_s3_store(s3_store: S3Store, tmp_path: Path) -> None:
    with pulling("s3://bucket/models", "toy", tmp_path / "reader") as puller:
        puller.until(lambda status: status.get("release") == 1)
        promote(s3_store, "toy", 2)
        puller.until(lambda status: status.get("release") == 2)
        current = tmp_path / "reader" / "current"
        assert (current / "toy" / "2").is_dir()
        assert content_digest_of(current.resolve()) == s3_store.manifest("toy", 2).content_digest


@pytest.mark.slow
def test_a_pull_from_s3_that_is_killed_again_and_again_ends_with_the_release(s3_server: S3Server, tmp_path: Path) -> None:
    """SIGKILL at 12 moments of a fetch of 60 MB, from the first second on; readers never see a part of it."""
    store = a_store()
    publish(store, toy_release(tmp_path / "large", "alpha", weights=random.Random(1).randbytes(60_000_000)), toy_recipe())
    folder = tmp_path / "reader"
    command = pull_command("s3://bucket/models", "toy", folder, "--release", "1")
    moments = random.Random(2)
    for _ in range(12):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.8, 2.5))
        process.kill()
        process.wait()
        if (folder / "current").exists():
            assert content_digest_of((folder / "current").resolve()) == store.manifest("toy", 1).content_digest
    subprocess.run(command, check=True)
    assert content_digest_of((folder / "current").resolve()) == store.manifest("toy", 1).content_digest
    assert os.listdir(folder / "partial") == []


@pytest.mark.slow
def test_serve_follows_a_channel_of_an_s3_store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEPRESS_WORKSPACE", str(tmp_path / "workspace"))
    with serving("s3://bucket/models/toy", "production", tmp_path / "serve.log") as served:  # type: ignore[arg-type]
        address = served.said(r"http://([\d.]+:\d+)").group(1)
        assert ask(address, "toy", INPUTS) == ("1", " alpha" * 2)
        promote(s3_store, "toy", 2)
        served.said("release 2 is served")
        assert ask(address, "toy", INPUTS) == ("2", " beta" * 2)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
