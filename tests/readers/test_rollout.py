"""`enginepress rollout` on real Triton servers that mount the store's channel."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import ServerError, UsageError
from enginepress.serving import drain as draining
from enginepress.serving import rollout as live
from enginepress.serving.drain import drain, is_drained, server_is_ready, undrain
from enginepress.serving.http_connection import HttpConnection
from enginepress.serving.tritonserver import TritonServer
from enginepress.steps.rollout import check_changeable, roll_out, rollout_mode, server_addresses, target_of
from enginepress.stores.filesystem import FileStore
from tests.readers.proxy import Proxy
from tests.readers.site import Clients, ask, promote, publish, pulling, toy_recipe, toy_release
from tests.serving.toy_model import write_model
from tests.templates.ask import generate_stream

INPUTS = {"text_input": "say it", "max_tokens": 3}
QUICK = live.Patience(drain=0.5)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Releases 1 and 2 of the toy model; the channel names 1."""
    store = FileStore(tmp_path / "store")
    for word in ("alpha", "beta"):
        publish(store, toy_release(tmp_path / word, word), toy_recipe())
    promote(store, "toy", 1)
    return store


@contextmanager
def servers(store: FileStore, folder: Path, count: int, model: str = "toy") -> Iterator[list[TritonServer]]:
    """Tritons that all mount the store and serve its channel."""
    path = store.channel_path(model, "production")
    with ExitStack() as stack:
        yield [
            stack.enter_context(TritonServer(path, log=folder / f"server-{i}.log", control_mode="explicit", exit_timeout_s=0))
            for i in range(count)
        ]


def rollout(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "enginepress", "rollout", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Restart ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "moves"), [(2, [2]), pytest.param(3, [2, 1, 2, 1], marks=pytest.mark.slow)])
def test_servers_restart_one_by_one_behind_a_proxy_and_no_request_fails(
    store: FileStore, tmp_path: Path, count: int, moves: list[int]
) -> None:
    with (
        servers(store, tmp_path, count) as running,
        Proxy([s.http for s in running]) as proxy,
        Clients(proxy.address, "toy", INPUTS) as clients,
    ):
        for number in moves:
            promote(store, "toy", number)
            names = [f"--server=http://{s.http}" for s in running]
            done = rollout(f"{store.root}/toy", "--mode", "restart", "--drain", "700ms", "--json", *names)
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            assert (result["release"], result["mode"]) == (number, "restart")
            assert [s["done"] for s in result["servers"]] == ["moved"] * count
            assert {ask(s.http, "toy", INPUTS)[0] for s in running} == {str(number)}
        assert proxy.never_none
    print(f"{clients.asked} requests, {len(clients.errors)} errors")
    assert clients.errors == []
    assert set(clients.answers) == {("1", " alpha" * 3), ("2", " beta" * 3)}


def test_the_only_server_is_restarted_only_if_somebody_says_so(store: FileStore) -> None:
    with pytest.raises(UsageError, match="only server"):
        roll_out(store, "toy", 2, ["127.0.0.1:1"], mode="restart")


@pytest.mark.slow
def test_a_server_that_was_left_drained_is_put_back(store: FileStore, tmp_path: Path) -> None:
    with servers(store, tmp_path, 1) as (server,):
        promote(store, "toy", 2)
        with HttpConnection(server.http, timeout_s=30) as connection:
            drain(connection)
            assert not server_is_ready(connection)
            roll_out(store, "toy", 2, [server.http], mode="restart", allow_downtime=True, patience=QUICK)
            assert server_is_ready(connection)
            # What an interrupted rollout leaves.
            drain(connection)
            assert ask(server.http, "toy", INPUTS)[0] == "2"
            done = roll_out(store, "toy", 2, [server.http], mode="restart", allow_downtime=True, patience=QUICK)
            assert done.servers[0].done == "was there already"
            assert server_is_ready(connection)


def test_a_restart_for_which_the_folder_never_changes_leaves_the_server_to_its_load_balancer(
    store: FileStore, tmp_path: Path
) -> None:
    """Of a release that is one model only loading tells whether it is there."""
    with servers(store, tmp_path, 1) as (server,), HttpConnection(server.http, timeout_s=30) as connection:
        with pytest.raises(ServerError, match="serves version 1 after it was told to load release 2"):
            roll_out(store, "toy", 2, [server.http], mode="restart", allow_downtime=True, patience=QUICK, wait_s=0)
        assert server_is_ready(connection)
        assert ask(server.http, "toy", INPUTS) == ("1", " alpha" * 3)


def test_after_a_server_was_put_back_load_balancers_get_the_time_to_notice(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one must not be drained before. The servers are doubles: the order is all that counts here."""
    done: list[str] = []
    monkeypatch.setattr(live, "serves", lambda server, _target: server == "drained")

    def put_back(server: str) -> bool:
        done.append(f"put {server} back")
        return True

    monkeypatch.setattr(live, "put_back", put_back)
    monkeypatch.setattr(live, "restart", lambda server, _target, **_: done.append(f"restart {server}"))
    monkeypatch.setattr(time, "sleep", lambda seconds: done.append(f"wait {seconds:g} s"))
    roll_out(store, "toy", 2, ["drained", "old"], mode="restart")
    assert done == ["put drained back", "wait 30 s", "restart old"]


# Reload -----------------------------------------------------------------------------------------------------------------


def test_a_server_that_an_interrupted_restart_left_drained_is_put_back_by_a_reload(store: FileStore, tmp_path: Path) -> None:
    with servers(store, tmp_path, 1) as (server,), HttpConnection(server.http, timeout_s=30) as connection:
        promote(store, "toy", 2)
        for done in ("moved", "was there already"):
            drain(connection)
            assert roll_out(store, "toy", 2, [server.http]).servers[0].done == done
            assert server_is_ready(connection)


@pytest.mark.parametrize("was_drained", [False, True])
def test_a_server_that_is_not_ready_for_a_reason_of_its_own_is_reloaded_all_the_same(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_drained: bool
) -> None:
    with servers(store, tmp_path, 1) as (server,), HttpConnection(server.http, timeout_s=30) as connection:
        if was_drained:
            drain(connection)
            undrain(connection)
        assert not is_drained(connection)
        with monkeypatch.context() as patched:  # another model that does not load
            patched.setattr(draining, "NAME", "other")
            patched.setattr(draining, "_PATH", "/v2/repository/models/other")
            drain(connection)
        monkeypatch.setattr(draining, "READY_S", 0.5)
        told: list[str] = []
        promote(store, "toy", 2)
        assert roll_out(store, "toy", 2, [server.http], told=told.append).servers[0].done == "moved"
        assert ask(server.http, "toy", INPUTS) == ("2", " beta" * 3)
        assert was_drained == any("was not ready 0.5 s after it was undrained" in line for line in told)


def test_an_answer_under_way_is_finished_by_the_release_that_began_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    publish(store, toy_release(tmp_path / "alpha", "alpha", pace_s=0.05), toy_recipe())
    publish(store, toy_release(tmp_path / "beta", "beta"), toy_recipe())
    promote(store, "toy", 1)
    with servers(store, tmp_path, 1) as (server,):
        said: list[Any] = []

        def listen() -> None:
            said.extend(generate_stream(server.http, "toy", text_input="say it", max_tokens=80, stream=True))

        listener = threading.Thread(target=listen)
        listener.start()
        promote(store, "toy", 2)
        target = target_of(store.manifest("toy", 2))
        live.bring_up(server.http, target)
        assert listener.is_alive()
        assert ask(server.http, "toy", INPUTS) == ("2", " beta" * 3)
        with pytest.raises(ServerError, match="still under way"):
            live.drop_old(server.http, target, patience=live.Patience(answer=0.2))
        live.drop_old(server.http, target)
        listener.join(60)
        assert "".join(piece["text_output"] for piece in said) == " alpha" * 80


@pytest.mark.slow
def test_a_release_that_does_not_load_leaves_the_old_one_answering(store: FileStore, tmp_path: Path) -> None:
    publish(store, write_model(tmp_path / "broken", version=0, placed=False, fault="load"), toy_recipe())
    with servers(store, tmp_path, 1) as (server,):
        promote(store, "toy", 3)
        with pytest.raises(ServerError, match=r"holds no model\.onnx"):
            roll_out(store, "toy", 3, [server.http])
        assert ask(server.http, "toy", INPUTS) == ("1", " alpha" * 3)
        promote(store, "toy", 2)
        assert roll_out(store, "toy", 2, [server.http]).servers[0].done == "moved"
        assert ask(server.http, "toy", INPUTS) == ("2", " beta" * 3)


def test_a_server_whose_own_folder_has_not_changed_is_waited_for_and_then_named(store: FileStore, tmp_path: Path) -> None:
    with servers(store, tmp_path, 1) as (server,):
        done = rollout(f"{store.root}/toy", "--release", "2", "--server", server.http, "--wait", "100ms")
        assert done.returncode == 1
        assert "serves version 1" in done.stderr
        assert "Traceback" not in done.stderr
        assert ask(server.http, "toy", INPUTS) == ("1", " alpha" * 3)


def test_a_server_that_cannot_be_reached_is_told_before_any_other_has_changed(store: FileStore, tmp_path: Path) -> None:
    with servers(store, tmp_path, 1) as (server,):
        promote(store, "toy", 2)
        with pytest.raises(ServerError, match=r"127\.0\.0\.1:1/.* cannot be reached: connection refused") as caught:
            roll_out(store, "toy", 2, [server.http, "127.0.0.1:1"])
        assert "is this the port of its HTTP service" in str(caught.value.fix)
        assert ask(server.http, "toy", INPUTS) == ("1", " alpha" * 3)


@pytest.mark.slow
def test_a_puller_leaves_a_restart_to_the_rollout(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    for word in ("alpha", "beta"):
        publish(store, toy_release(tmp_path / word, word), toy_recipe(rollout="restart"))
    promote(store, "toy", 1)
    folder = tmp_path / "reader"
    with pulling(store.root, "toy", folder) as puller:
        puller.until(lambda status: status.get("release") == 1)
    with (
        TritonServer(folder / "current", log=tmp_path / "server.log", control_mode="explicit", exit_timeout_s=0) as server,
        pulling(store.root, "toy", folder, "--triton", f"http://{server.http}") as puller,
    ):
        puller.until(lambda status: status.get("serving") == 1)
        promote(store, "toy", 2)
        puller.until(lambda status: status.get("release") == 2 and "enginepress rollout" in status["message"])
        assert ask(server.http, "toy", INPUTS)[0] == "1"
        roll_out(store, "toy", 2, [server.http], allow_downtime=True, patience=QUICK)
        puller.until(lambda status: status.get("serving") == 2)
        assert ask(server.http, "toy", INPUTS) == ("2", " beta" * 3)


@pytest.mark.slow
def test_a_server_that_keeps_model_control_for_operators_wants_their_header(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.channel_path("toy", "production")
    monkeypatch.setenv("ENGINEPRESS_TRITON_HEADER", "operator-key: s3cret")
    restricted = ["--http-restricted-api=model-repository:operator-key=s3cret"]
    with TritonServer(path, log=tmp_path / "log", control_mode="explicit", exit_timeout_s=0, extra_args=restricted) as server:
        promote(store, "toy", 2)
        monkeypatch.setenv("ENGINEPRESS_TRITON_HEADER", "operator-key: wrong")
        with pytest.raises(ServerError, match="restricted") as caught:
            roll_out(store, "toy", 2, [server.http])
        assert "wrong" not in str(caught.value)
        assert "ENGINEPRESS_TRITON_HEADER" in str(caught.value.fix)
        monkeypatch.setenv("ENGINEPRESS_TRITON_HEADER", "operator-key: s3cret")
        roll_out(store, "toy", 2, [server.http])
        monkeypatch.delenv("ENGINEPRESS_TRITON_HEADER")
        assert ask(server.http, "toy", INPUTS) == ("2", " beta" * 3)


# Which servers, and how -------------------------------------------------------------------------------------------------


def test_a_name_that_resolves_to_several_servers_means_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        found = {"triton-headless": ["10.0.0.2", "10.0.0.1", "fd00::1"], "one": ["10.0.0.1"]}[host]
        return [(0, 0, 0, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert server_addresses(["http://triton-headless:8000", "one:8000", "http://one:9000/"]) == [
        "10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000", "10.0.0.1:9000"
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["https://x:8000", "http://", "http://x:y", "http://x:8000/v2", "grpc://x:8001"])
def test_what_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no server"):
        server_addresses([url])


@pytest.mark.parametrize("multi_gpu", ["leader", "orchestrator"])
def test_ranks_under_one_mpirun_are_not_changed_while_they_run(tmp_path: Path, multi_gpu: str) -> None:
    from dataclasses import replace

    store = FileStore(tmp_path / "store")
    publish(store, toy_release(tmp_path / "alpha", "alpha"), toy_recipe())
    engine = {"builder": "tensorrt_llm", "parallelism": {"tensor": 2}, "gpu": {"name": "H100-SXM5-80GB", "count": 2}}
    recipe = {**toy_recipe().canonical(), "engine": engine, "serving": {"multi_gpu": multi_gpu}}
    manifest = replace(store.manifest("toy", 1), recipe=recipe)
    if multi_gpu == "orchestrator":
        check_changeable(manifest)
        return
    with pytest.raises(ServerError, match="only the first takes commands"):
        check_changeable(manifest)


@pytest.mark.parametrize(
    ("engine", "serving", "mode"),
    [
        ({"builder": "onnxruntime"}, {}, "reload"),
        ({"builder": "onnxruntime"}, {"rollout": "restart"}, "restart"),
        ({"builder": "tensorrt_llm", "gpu": {"name": "H100-SXM5-80GB"}}, {}, "restart"),
        ({"builder": "tensorrt_llm", "gpu": {"name": "H100-SXM5-80GB"}}, {"rollout": "reload"}, "reload"),
        (
            {"builder": "tensorrt_llm", "gpu": {"name": "H100-SXM5-80GB"}},
            {"parameters": {"kv_cache_free_gpu_mem_fraction": 0.4}},
            "reload",
        ),
        ({"builder": "tensorrt_llm", "gpu": {"name": "L4"}}, {"parameters": {"kv_cache_free_gpu_mem_fraction": 0.4}}, "restart"),
        ({"builder": "vllm", "gpu": {"name": "H100-SXM5-80GB"}}, {"engine_args": {"gpu_memory_utilization": 0.45}}, "reload"),
        ({"builder": "vllm", "gpu": {"name": "H100-SXM5-80GB"}}, {"engine_args": {"gpu_memory_utilization": 0.6}}, "restart"),
    ],
)
def test_servers_reload_where_memory_holds_both_releases(
    tmp_path: Path, engine: dict[str, Any], serving: dict[str, Any], mode: str
) -> None:
    """Engines of 15 GB."""
    from dataclasses import replace

    from enginepress.files import FileEntry

    recipe = toy_recipe().model_copy(update={})
    store = FileStore(tmp_path / "store")
    publish(store, toy_release(tmp_path / "alpha", "alpha"), recipe)
    manifest = store.manifest("toy", 1)
    large = FileEntry("toy/1/engine", 15 * 10**9, "0" * 64)
    data = {**recipe.canonical(), "engine": engine, "serving": serving}
    assert rollout_mode(replace(manifest, recipe=data, files=(*manifest.files, large)))[0] == mode
