"""Live servers change releases while clients never rest: no error, no answer of two releases, and the channel decides."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from enginepress.serving.control import model_states
from enginepress.serving.http_connection import HttpConnection
from enginepress.serving.rollout import bring_up
from enginepress.serving.tritonserver import TritonServer
from enginepress.steps.rollout import roll_out, target_of
from enginepress.stores.filesystem import FileStore
from tests.readers.site import Clients, ask, promote, publish, pulling, toy_recipe, toy_release
from tests.readers.trt_site import INPUTS, PROMPT, TrtRelease, slowed
from tests.serving.trt_repository import serving_stand_ins
from tests.templates.ask import generate_stream

MANY = pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
TOY_INPUTS = {"text_input": "say it", "max_tokens": 3}


@pytest.mark.parametrize("moves", [3, MANY])
def test_a_puller_moves_its_server_with_every_move_of_the_channel(tmp_path: Path, moves: int) -> None:
    store = FileStore(tmp_path / "store")
    says = {}
    for word in ("alpha", "beta"):
        number = publish(store, toy_release(tmp_path / word, word), toy_recipe())
        says[str(number)] = f" {word}" * 3
    promote(store, "toy", 1)
    folder = tmp_path / "reader"
    with pulling(tmp_path / "store", "toy", folder, "--grace", "0s") as puller:
        puller.until(lambda status: status.get("release") == 1)
        assert (folder / "ready").exists()
    with (
        TritonServer(folder / "current", log=tmp_path / "server.log", control_mode="explicit", exit_timeout_s=0) as server,
        pulling(tmp_path / "store", "toy", folder, "--grace", "0s", "--triton", f"http://{server.http}") as puller,
        Clients(server.http, "toy", TOY_INPUTS) as clients,
    ):
        for move in range(moves):
            wanted = 2 - move % 2
            promote(store, "toy", wanted)
            puller.until(lambda status, wanted=wanted: status.get("serving") == wanted)  # type: ignore[misc]
            assert ask(server.http, "toy", TOY_INPUTS) == (str(wanted), says[str(wanted)])
            assert (folder / "ready").exists()
    print(f"{clients.asked} requests during {moves} moves, {len(clients.errors)} errors")
    assert clients.errors == []
    assert set(clients.answers) == set(says.items())


@pytest.mark.slow
@pytest.mark.parametrize("moves", [2, MANY])
def test_four_models_behind_an_ensemble_move_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trt: list[TrtRelease], moves: int
) -> None:
    serving_stand_ins(patch=monkeypatch)
    store = FileStore(tmp_path / "store")
    says = {str(publish(store, release.unplaced, release.recipe)): release.says for release in trt}
    promote(store, "tiny", 1)
    folder = tmp_path / "reader"
    with pulling(tmp_path / "store", "tiny", folder) as puller:
        puller.until(lambda status: status.get("release") == 1)
    with (
        TritonServer(folder / "current", log=tmp_path / "server.log", control_mode="explicit", exit_timeout_s=0) as server,
        pulling(tmp_path / "store", "tiny", folder, "--grace", "0s", "--triton", f"http://{server.http}") as puller,
        Clients(server.http, "tiny", INPUTS) as clients,
    ):
        for move in range(moves):
            wanted = 2 - move % 2
            promote(store, "tiny", wanted)
            puller.until(lambda status, wanted=wanted: status.get("serving") == wanted)  # type: ignore[misc]
            assert ask(server.http, "tiny", INPUTS) == (str(wanted), says[str(wanted)])
    print(f"{clients.asked} requests during {moves} moves, {len(clients.errors)} errors")
    assert clients.errors == []
    assert set(clients.answers) == set(says.items())


@pytest.mark.slow
def test_a_stream_through_an_ensemble_is_finished_by_the_release_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trt: list[TrtRelease]
) -> None:
    """The models behind the old ensemble stay as long as one answer of it is under way."""
    serving_stand_ins(patch=monkeypatch)
    store = FileStore(tmp_path / "store")
    publish(store, slowed(trt[0].unplaced, tmp_path / "slow", pause_ms=100), trt[0].recipe)
    publish(store, trt[1].unplaced, trt[1].recipe)
    promote(store, "tiny", 1)
    path = store.channel_path("tiny", "production")
    with TritonServer(path, log=tmp_path / "server.log", control_mode="explicit", exit_timeout_s=0) as server:
        said: list[str] = []

        def listen() -> None:
            asked = {"text_input": PROMPT, "max_tokens": 40, "stream": True, "id": "one"}
            said.extend(piece["text_output"] for piece in generate_stream(server.http, "tiny", **asked))

        listener = threading.Thread(target=listen)
        listener.start()
        promote(store, "tiny", 2)
        roll_out(store, "tiny", 2, [server.http])
        assert ask(server.http, "tiny", INPUTS) == ("2", trt[1].says)
        listener.join(60)
        assert "".join(said) == trt[0].word * 40
        with HttpConnection(server.http, timeout_s=30) as connection:
            loaded = {state.name for state in model_states(connection) if state.state == "READY"}
        assert loaded == {"tiny", "tiny-engine.r2", "tiny-preprocessing.r2", "tiny-postprocessing.r2"}


@pytest.mark.slow
def test_after_an_interrupted_rollout_no_third_engine_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trt: list[TrtRelease]
) -> None:
    """Memory holds two engines: what nobody is on is dropped before another one is loaded, on the way back, too."""
    serving_stand_ins(patch=monkeypatch)
    store = FileStore(tmp_path / "store")
    for release in trt:
        publish(store, release.unplaced, release.recipe)
    promote(store, "tiny", 1)
    log = tmp_path / "server.log"
    path = store.channel_path("tiny", "production")
    with TritonServer(path, log=log, control_mode="explicit", exit_timeout_s=0) as server:
        promote(store, "tiny", 2)
        bring_up(server.http, target_of(store.manifest("tiny", 2)))
        promote(store, "tiny", 1)
        roll_out(store, "tiny", 1, [server.http])
        assert ask(server.http, "tiny", INPUTS) == ("1", trt[0].says)
        events = re.findall(r"(loading|successfully unloaded)[: ]+\\?'?(tiny-engine\.r\d)", log.read_text())
        assert events[:4] == [
            ("loading", "tiny-engine.r1"),
            ("loading", "tiny-engine.r2"),
            ("successfully unloaded", "tiny-engine.r1"),
            ("loading", "tiny-engine.r1"),
        ]
