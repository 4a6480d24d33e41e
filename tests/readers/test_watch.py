"""`enginepress pull --watch`: outages are survived and told, and its end is clean."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from enginepress.errors import ServerError
from enginepress.serving import rollout as live
from enginepress.steps.pull import reader_folder
from enginepress.steps.watch_channel import Follower, Watch
from enginepress.stores.filesystem import FileStore
from tests.readers.site import promote, publish, pull_command, pulling, toy_recipe, toy_release


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store")
    for word in ("alpha", "beta"):
        publish(store, toy_release(tmp_path / word, word), toy_recipe())
    promote(store, "toy", 1)
    return store


class Reader:
    """A follower in this process, and what it told."""

    def __init__(self, store: FileStore, folder: Path, *, server: str | None = None) -> None:
        self.told: list[str] = []
        self.stop = threading.Event()
        self.folder = folder
        self.follower = Follower(
            store,
            reader_folder(folder, root=None, grace_s=600.0, keep=1),
            Watch("toy", "production", every_s=0.01, server=server),
            told=self._tell,
            stop=self.stop,
        )
        self.stop_when = "\0"

    def _tell(self, line: str) -> None:
        self.told.append(line)
        if self.stop_when in line:
            self.stop.set()

    @property
    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "status.json").read_text())
        return found


def test_an_outage_of_the_store_is_told_once_and_what_is_there_stays_ready(store: FileStore, tmp_path: Path) -> None:
    reader = Reader(store, tmp_path / "reader")
    assert reader.follower.look()
    assert (tmp_path / "reader" / "ready").exists()
    store.root.rename(tmp_path / "away")
    for _ in range(3):
        assert not reader.follower.look()
    assert len([line for line in reader.told if line.startswith("will try again")]) == 1
    assert reader.status["state"] == "trouble"
    assert reader.status["message"] == f"{store.url}: holds no models"
    assert (tmp_path / "reader" / "ready").exists()
    (tmp_path / "away").rename(store.root)
    promote(store, "toy", 2)
    assert reader.follower.look()
    assert reader.told[-1] == "all is well again"
    assert (reader.status["state"], reader.status["release"], reader.status["message"]) == ("following", 2, "")


def test_a_reader_may_come_before_the_store_and_is_not_ready_until_there_is_a_release(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    reader = Reader(store, tmp_path / "reader")
    assert not reader.follower.look()
    assert not (tmp_path / "reader" / "ready").exists()
    publish(store, toy_release(tmp_path / "alpha", "alpha"), toy_recipe())
    promote(store, "toy", 1)
    assert reader.follower.look()
    assert (tmp_path / "reader" / "ready").exists()


def test_a_sidecar_that_starts_in_an_outage_of_the_store_is_ready_if_its_server_answers(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is a double: what it answers is all that counts here."""
    folder = tmp_path / "reader"
    assert Reader(store, folder).follower.look()
    store.root.rename(tmp_path / "away")
    answers: list[bool | ServerError] = [True, ServerError("refused")]
    seen = []

    def serves(_address: str, target: live.Target) -> bool:
        seen.append(target.release)
        answer = answers[0]
        if isinstance(answer, ServerError):
            raise answer
        return answer

    monkeypatch.setattr(live, "serves", serves)
    reader = Reader(store, folder, server="127.0.0.1:1")
    (folder / "ready").unlink()
    assert not reader.follower.look()
    assert (folder / "ready").exists()
    answers.pop(0)
    assert not reader.follower.look()
    assert not (folder / "ready").exists()
    assert set(seen) == {1}


def test_told_to_stop_in_the_middle_of_a_fetch_it_stops_there_and_the_next_goes_on(store: FileStore, tmp_path: Path) -> None:
    reader = Reader(store, tmp_path / "reader")
    reader.stop_when = "fetching release 1"
    reader.follower.run()
    assert reader.status["state"] == "stopped"
    assert not (tmp_path / "reader" / "current").exists()
    assert Reader(store, tmp_path / "reader").follower.look()
    assert (tmp_path / "reader" / "current" / "toy" / "1").is_dir()


def test_waits_are_longer_and_shorter_by_the_jitter() -> None:
    pauses = {Watch("toy", "production", every_s=10, jitter=0.2).pause() for _ in range(200)}
    assert 8 <= min(pauses) < 8.5
    assert 11.5 < max(pauses) <= 12
    assert {Watch("toy", "production", every_s=10, jitter=0).pause() for _ in range(5)} == {10.0}


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_it_cleanly(store: FileStore, tmp_path: Path, ending: signal.Signals) -> None:
    with pulling(store.root, "toy", tmp_path / "reader") as puller:
        puller.until(lambda status: status.get("release") == 1)
        puller.process.send_signal(ending)
        assert puller.process.wait(20) == 0
        assert puller.status()["state"] == "stopped"
        assert "Traceback" not in puller.log.read_text()


def test_once_is_for_init_containers(store: FileStore, tmp_path: Path) -> None:
    command = pull_command(f"file://{store.root}", "toy", tmp_path / "reader", "--channel", "production", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["release"], result["changed"]) == (1, True)
    assert (Path(result["repository"]) / "toy" / "1").is_dir()
    assert "fetching release 1 of toy" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a channel or a release"),
        (["--channel", "a", "--release", "1"], "either a channel or a release"),
        (["--release", "1", "--watch"], "nothing to watch"),
        (["--channel", "a", "--triton", "http://x:1"], "goes with --watch"),
        (["--channel", "a", "--root", "relative"], "absolute path"),
        (["--channel", "a", "--watch", "--every", "soon"], "no duration"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        pull_command(tmp_path, "toy", tmp_path / "reader", *arguments), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "reader").exists()


def test_a_release_that_must_be_signed_and_is_not_is_not_pulled(store: FileStore, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = tmp_path / "key.pem"
    key.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    command = pull_command(store.root, "toy", tmp_path / "reader", "--release", "1", "--public-key", str(key))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not signed" in done.stderr
    assert not (tmp_path / "reader" / "current").exists()
