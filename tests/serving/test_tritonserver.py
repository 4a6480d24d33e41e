"""The server as a process: it starts, says why it cannot, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import ServerError
from enginepress.process import die_with_parent
from enginepress.serving.client import Question, ask_grpc, ask_http
from enginepress.serving.control import served_versions
from enginepress.serving.http_connection import HttpConnection
from enginepress.serving.shared_memory import FOLDER, new_prefix, sweep_leftovers
from enginepress.serving.tritonserver import HOST, Ports, TritonServer, describe_status, free_ports
from tests.serving.processes import gone_within, is_running, leftovers
from tests.serving.toy_model import Fault, toy_answer, write_model

QUESTION = Question(text="red green blue", max_tokens=4)


def start(repository: Path, log: Path, **options: object) -> TritonServer:
    options.setdefault("exit_timeout_s", 0)
    options.setdefault("ready_timeout_s", 30)
    return TritonServer(repository, log=log, **options)  # type: ignore[arg-type]


def test_a_model_is_ready_inside_the_context_and_nothing_is_left_after_it(tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "r"), log, exit_timeout_s=10) as server:
        assert server.models == ("toy",)
        assert server.version.count(".") == 2
        assert 0 < server.ready_s < 60
        assert ask_http(server.http, "toy", QUESTION, stream=False).text == toy_answer("red green blue", 4)
        assert leftovers(log)
        pid = server.pid
        assert pid is not None
    assert not is_running(pid)
    assert leftovers(log) == []
    assert not server.running


def test_killing_at_the_end_leaves_nothing_either(tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "r"), log, exit_timeout_s=0):
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert leftovers(log) == []


def test_stopping_twice_is_harmless(tmp_path: Path, log: Path) -> None:
    server = start(write_model(tmp_path / "r"), log)
    server.start()
    server.stop()
    server.stop()
    assert leftovers(log) == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("load", "model 'toy': RuntimeError: the engine folder holds no model.onnx (at "),
        ("import", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("die on load", "Stub process 'toy_0_0' is not healthy."),
    ],
)
def test_a_model_that_does_not_load_gives_its_reason_and_the_log(fault: Fault, said: str, tmp_path: Path, log: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServerError) as caught, start(write_model(tmp_path / "r", fault=fault), log):
        raise AssertionError("started")
    assert said in caught.value.message
    assert str(log) in (caught.value.fix or "")
    assert time.monotonic() - began < 15
    assert leftovers(log) == []


def test_a_missing_model_file_is_noticed_although_triton_would_wait_for_ever(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r")
    (repository / "toy" / "1" / "model.py").unlink()
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"Python model file not found in '.*/toy/1/model\.py'"), start(repository, log):
        raise AssertionError("started")
    assert time.monotonic() - began < 15
    assert leftovers(log) == []


def test_a_config_that_triton_cannot_read_is_named(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r")
    (repository / "toy" / "config.pbtxt").write_text('name: "toy" bakend: "python"')
    with pytest.raises(ServerError, match=r"model 'toy': failed to read text proto"), start(repository, log):
        raise AssertionError("started")


def test_every_model_that_fails_is_named(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r", "first", fault="load")
    write_model(repository, "second", fault="import")
    write_model(repository, "third")
    with pytest.raises(ServerError) as caught, start(repository, log):
        raise AssertionError("started")
    assert "model 'first'" in caught.value.message
    assert "model 'second'" in caught.value.message
    assert "model 'third'" not in caught.value.message


def test_a_model_that_never_gets_ready_ends_in_an_error_and_is_killed(tmp_path: Path, log: Path) -> None:
    with pytest.raises(ServerError) as caught, start(write_model(tmp_path / "r", fault="hang"), log, ready_timeout_s=2):
        raise AssertionError("started")
    assert caught.value.message.startswith("Triton was not ready after 2 s. Its last lines:\n")
    assert "TRITONBACKEND_ModelInstanceInitialize: toy_0_0" in caught.value.message
    assert "ready_timeout_s" in (caught.value.fix or "")
    assert leftovers(log) == []


def test_a_server_that_dies_while_starting_is_reported_with_its_last_words(tmp_path: Path, log: Path) -> None:
    server = start(write_model(tmp_path / "r"), log, extra_args=["--no-such-flag"])
    with pytest.raises(ServerError, match=r"the Triton server died while it was starting \(exit status 1\)(.|\n)*no-such-flag"):
        server.start()
    assert leftovers(log) == []


def test_a_server_that_is_killed_is_noticed(tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "r"), log) as server:
        server.check_running()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"cannot be reached|in the middle"):
            ask_http(server.http, "toy", QUESTION, stream=False)
        deadline = time.monotonic() + 10
        while server.running and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ServerError, match=r"died while testing \(killed by SIGKILL\)"):
            server.check_running("while testing")
    assert leftovers(log) == []


def test_a_repository_without_models_is_refused_before_anything_starts(tmp_path: Path, log: Path) -> None:
    with pytest.raises(ServerError, match="holds no model"):
        start(tmp_path, log).start()
    assert not log.exists()


def test_a_path_with_a_space_and_a_quote_is_served(tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "my 'own' models; $HOME"), log, ready_timeout_s=30) as server:
        assert ask_http(server.http, "toy", QUESTION, stream=True).text == toy_answer("red green blue", 4)


# The metrics port is the hard one: the server is ready by then, and ends a moment later.
@pytest.mark.parametrize(
    "kind", [pytest.param("http", marks=pytest.mark.slow), pytest.param("grpc", marks=pytest.mark.slow), "metrics"]
)
def test_a_port_that_is_taken_meanwhile_makes_it_start_again_on_others(kind: str, tmp_path: Path, log: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        chosen: list[Ports] = []

        def choose() -> Ports:
            ports = free_ports()
            if not chosen:
                ports = Ports(**{**ports.__dict__, kind: taken.getsockname()[1]})
            chosen.append(ports)
            return ports

        with start(write_model(tmp_path / "r"), log, choose_ports=choose) as server:
            assert len(chosen) == 2
            assert ask_http(server.http, "toy", QUESTION, stream=False).model_version == "1"
    assert leftovers(log) == []


def test_another_server_on_the_same_port_is_not_taken_for_ours(toy_server: TritonServer, tmp_path: Path, log: Path) -> None:
    http = int(toy_server.http.rpartition(":")[2])
    ports: Iterator[Ports] = iter([Ports(http, *list(free_ports().__dict__.values())[1:]), free_ports()])
    with start(write_model(tmp_path / "r", version=5), log, choose_ports=lambda: next(ports)) as server:
        assert server.http != toy_server.http
        assert ask_http(server.http, "toy", QUESTION, stream=False).model_version == "5"


def test_two_servers_run_side_by_side(toy_server: TritonServer, tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "r", version=7), log) as other:
        assert ask_grpc(other.grpc, "toy", QUESTION, stream=True).model_version == "7"
        assert ask_grpc(toy_server.grpc, "toy", QUESTION, stream=True).model_version == "1"
    assert toy_server.running
    assert ask_http(toy_server.http, "toy", QUESTION, stream=False).model_version == "1"


def test_the_end_of_the_thread_that_started_it_does_not_end_it(tmp_path: Path, log: Path) -> None:
    server = start(write_model(tmp_path / "r"), log)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        server.check_running()
        assert ask_http(server.http, "toy", QUESTION, stream=False).model_version == "1"
    finally:
        server.stop()


CHILD = """
import sys, time
from pathlib import Path
from enginepress.serving.tritonserver import TritonServer
with TritonServer(Path(sys.argv[1]), log=Path(sys.argv[2]), ready_timeout_s=60) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_is_left_of_a_server_whose_parent_was_ended(ending: signal.Signals, tmp_path: Path, log: Path) -> None:
    """After SIGKILL the kernel ends tritonserver at once; its stub notices that within a few seconds and cleans up."""
    repository = write_model(tmp_path / "r")
    argv = [sys.executable, "-c", CHILD, str(repository), str(log)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=die_with_parent
    ) as parent:
        assert parent.stdout is not None
        server_pid = int(parent.stdout.readline())
        assert len(leftovers(log)) == 3, "tritonserver, its stub and a region"
        parent.send_signal(ending)
        parent.wait(timeout=30)
    gone_within(log, 10)
    assert not is_running(server_pid)


def test_what_dead_owners_left_is_swept_and_what_belongs_to_live_ones_stays() -> None:
    """The processes stand for stubs that wait for a server that was killed, and never notice."""
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    dead = f"enginepress_{os.stat('/proc/self/ns/pid').st_ino}_{owner.pid}_1_0123abcd_"
    foreign = f"enginepress_1_{owner.pid}_1_0123abcd_"
    mine = new_prefix()
    temporary = Path(tempfile.gettempdir())
    waiting = "import time; time.sleep(600)"
    stubs = {name: subprocess.Popen([sys.executable, "-c", waiting, f"{name}stub"]) for name in (dead, foreign, mine)}
    try:
        for name in (dead, foreign, mine):
            (FOLDER / f"{name}region").write_bytes(b"")
            (temporary / f"{name}scratch").mkdir()
            (temporary / f"{name}scratch" / "file").write_bytes(b"")
        sweep_leftovers()
        left = {
            name: [(FOLDER / f"{name}region").exists(), (temporary / f"{name}scratch").exists()] for name in (dead, foreign, mine)
        }
        assert left == {dead: [False, False], foreign: [True, True], mine: [True, True]}
        assert {name: stub.poll() for name, stub in stubs.items()} == {dead: -signal.SIGKILL, foreign: None, mine: None}
    finally:
        for stub in stubs.values():
            stub.kill()
            stub.wait()
        for name in (dead, foreign, mine):
            (FOLDER / f"{name}region").unlink(missing_ok=True)
            shutil.rmtree(temporary / f"{name}scratch", ignore_errors=True)


@pytest.mark.parametrize(("status", "words"), [(1, "exit status 1"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")])
def test_an_exit_status_is_put_into_words(status: int, words: str) -> None:
    assert describe_status(status) == words


# Loading while it runs --------------------------------------------------------------------------------------------------


def activate(channel: Path, release: Path) -> None:
    """Moves a channel by renaming a new link over the old one."""
    fresh = channel.with_name(".fresh")
    fresh.symlink_to(release)
    fresh.rename(channel)


def test_a_channel_moves_forward_and_back_and_the_answers_carry_the_wanted_version(tmp_path: Path, log: Path) -> None:
    """The way back is where Triton, told to load, says 200 and keeps the newer model."""
    seven = write_model(tmp_path / "7", version=7)
    time.sleep(0.02)
    eight = write_model(tmp_path / "8", version=8)
    channel = tmp_path / "production"
    activate(channel, seven)
    with start(channel, log, control_mode="explicit", models=["toy"]) as server:
        for number in (8, 7, 8, 7):
            activate(channel, {7: seven, 8: eight}[number])
            assert server.load("toy", version=number) == (str(number),)
            assert ask_http(server.http, "toy", QUESTION, stream=False).model_version == str(number)


def test_a_load_that_does_not_give_the_wanted_version_is_an_error(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r", version=3)
    wrong = pytest.raises(ServerError, match="serves version 3 after it was told to load version 4")
    with start(repository, log, control_mode="explicit") as server, wrong:
        server.load("toy", version=4)


def test_a_failed_load_leaves_the_old_model_answering(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r")
    with start(repository, log, control_mode="explicit") as server:
        model = repository / "toy" / "1" / "model.py"
        model.write_text("raise RuntimeError('half a release')")
        with pytest.raises(ServerError, match="half a release"):
            server.load("toy", version=1)
        assert ask_http(server.http, "toy", QUESTION, stream=False).text == toy_answer("red green blue", 4)


def test_an_unloaded_model_is_not_served_any_more(tmp_path: Path, log: Path) -> None:
    with start(write_model(tmp_path / "r"), log, control_mode="explicit") as server:
        server.unload("toy")
        with HttpConnection(server.http, timeout_s=5) as connection:
            deadline = time.monotonic() + 10
            while served_versions(connection, "toy") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert served_versions(connection, "toy") == ()
        with pytest.raises(ServerError, match=r"toy"):
            ask_http(server.http, "toy", QUESTION, stream=False)


def test_only_the_named_models_are_loaded(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r", "wanted")
    write_model(repository, "broken", fault="load")
    with start(repository, log, control_mode="explicit", models=["wanted"]) as server:
        assert ask_http(server.http, "wanted", QUESTION, stream=False).model_version == "1"


def test_loading_is_refused_where_it_was_not_allowed(toy_server: TritonServer) -> None:
    with pytest.raises(ServerError, match="explicit model load"):
        toy_server.load("toy")
