"""The registry behind HTTP: a real MLflow server, and servers that are not there, do not answer or want credentials."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import RecipeError, RegistryError
from enginepress.mlflow_access import session
from enginepress.recipe import Registry
from enginepress.registry import MlflowRegistry
from tests.registry.conftest import register_with
from tests.stores.parts import MODEL, key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# A real server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_release_is_registered_with_a_server_its_report_too(server: str, report: list[Path], tmp_path: Path) -> None:
    registry = MlflowRegistry(Registry(tracking_uri=server), default_uri=f"sqlite:///{tmp_path}/unused.db")
    done = register_with(registry, 7, key("a"), report, stores=["file:///srv/my models"])
    assert register_with(registry, 7, key("a"), report, stores=["file:///srv/my models"]) == done
    registry.set_alias(MODEL, "production", 7)
    assert registry.alias(MODEL, "production") == 7
    (version,) = registry.describe(MODEL)
    assert (version.release, version.stores, version.aliases) == (7, ("file:///srv/my models",), ("production",))
    with session(server, Registry(), doing="looking") as client:
        artifacts = client.list_artifacts(done.run_id)
        run = client.get_run(done.run_id)
        source = client.get_model_version(MODEL, str(done.model_version)).source
    assert sorted(a.path for a in artifacts) == ["report.html", "report.json", "report.md"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["seconds.build"] == 7.25
    assert source == "enginepress://tiny/7?store=file:///srv/my%20models"
    assert not (tmp_path / "unused.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_registrations_at_once_with_a_server_end_as_one_version(server: str, turn: int) -> None:
    """There is no lock between machines, so a second version may be made; it must not stay."""
    release = 100 + turn
    program = [sys.executable, "-m", "tests.registry.program", server, str(release)]
    workers = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [w.communicate(timeout=200) for w in workers]
    assert len({out for out, _ in outputs}) == 1, outputs
    registry = MlflowRegistry(Registry(tracking_uri=server), default_uri="")
    assert [v.release for v in registry.describe(MODEL)].count(release) == 1


@pytest.mark.slow
@pytest.mark.parametrize("source", ["/srv/models/tiny", "file:///srv/models/tiny", "store+file:///srv/models"])
def test_a_server_refuses_paths_as_sources_which_is_why_ours_are_none(server: str, source: str) -> None:
    with session(server, Registry(), doing="trying") as client:
        client.create_registered_model(f"paths-{abs(hash(source))}")
    with (
        pytest.raises(RegistryError, match="Invalid model version source"),
        session(server, Registry(), doing="trying") as client,
    ):
        client.create_model_version(f"paths-{abs(hash(source))}", source)


# No server ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "postgresql+psycopg"])
def test_a_closed_port_is_reported_at_once_with_what_finishes_the_registration(scheme: str, report: list[Path]) -> None:
    uri = f"{scheme}://ana:secret@127.0.0.1:{free_port()}/mlflow"
    registry = MlflowRegistry(Registry(tracking_uri=uri), default_uri="")
    start = time.monotonic()
    with pytest.raises(RegistryError, match="MLflow cannot be reached") as caught:
        register_with(registry, 7, key("a"), report)
    assert time.monotonic() - start < 5
    assert "the release stays published" in (caught.value.fix or "")
    assert "doctor TARGET --repair" in (caught.value.fix or "")
    assert "secret" not in str(caught.value)


def test_a_host_that_does_not_exist_is_named() -> None:
    registry = MlflowRegistry(Registry(tracking_uri="http://mlflow.invalid:5000"), default_uri="")
    with pytest.raises(RegistryError, match=r"cannot be reached at mlflow\.invalid"):
        registry.describe(MODEL)


class Recorder(http.server.BaseHTTPRequestHandler):
    """Refuses everything, and keeps what it was sent."""

    seen: list[str | None] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ({"username": "${EP_TEST_USER}", "password": "${EP_TEST_PASSWORD}"}, "Basic YW5hOnMzY3JldA=="),
        ({"token": "${EP_TEST_PASSWORD}"}, "Bearer s3cret"),
        ({}, "Bearer from-elsewhere"),
    ],
)
def test_credentials_are_taken_from_the_environment_and_a_refusal_says_which_to_check(
    recorder: str, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str], header: str
) -> None:
    monkeypatch.setenv("EP_TEST_USER", "ana")
    monkeypatch.setenv("EP_TEST_PASSWORD", "s3cret")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "from-elsewhere")
    registry = MlflowRegistry(Registry(tracking_uri=recorder, **credentials), default_uri="")  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="401") as caught:
        registry.describe(MODEL)
    assert set(Recorder.seen) == {header}
    assert "check registry.username" in (caught.value.fix or "")
    assert "s3cret" not in str(caught.value)
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "from-elsewhere"


def test_a_credential_that_is_not_set_is_named(recorder: str) -> None:
    registry = MlflowRegistry(Registry(tracking_uri=recorder, token="${EP_TEST_NOT_SET}"), default_uri="")
    with pytest.raises(RecipeError, match="EP_TEST_NOT_SET, which is not set") as caught:
        registry.describe(MODEL)
    assert caught.value.where == "registry.token"
    assert Recorder.seen == []


def test_a_server_that_takes_calls_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = MlflowRegistry(Registry(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}"), default_uri="")
        start = time.monotonic()
        with pytest.raises(RegistryError, match="reading the registered model tiny failed"):
            registry.describe(MODEL)
        assert time.monotonic() - start < 30
