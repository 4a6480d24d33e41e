"""What readers' tests need: releases that say which one they are, a store, a puller, and clients that never rest."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.repository.place import content_digest_of, place
from enginepress.serving.http_connection import HttpConnection
from enginepress.steps.promote import activate
from enginepress.stores.store import Store
from tests.serving.toy_model import write_model
from tests.stores.parts import key


def toy_recipe(name: str = "toy", **serving: Any) -> Recipe:
    return Recipe.model_validate({"name": name, "source": "file:///checkpoint", "serving": serving, "stores": ["file:///store"]})


def toy_release(folder: Path, says: str, *, name: str = "toy", weights: bytes = b"weights" * 1000, pace_s: float = 0.0) -> Path:
    """An unplaced repository of the toy model, whose answers repeat the word `says`. `weights` is a file that it never reads."""
    repository = write_model(folder, name, version=0, placed=False, pace_s=pace_s)
    model = repository / name / "0" / "model.py"
    said = model.read_text().replace('" " + words[i % len(words)]', f'" {says}"')
    assert f'" {says}"' in said
    model.write_text(said)
    (repository / name / "0" / "weights.bin").write_bytes(weights)
    return repository


def publish(store: Store, unplaced: Path, recipe: Recipe) -> int:
    """The number of a new release, published and never gated: these tests are about what comes after."""
    content = content_digest_of(unplaced)
    manifest = store.publish(
        recipe.name,
        place=lambda n: place(unplaced, n, None),
        describe=lambda n, files: Manifest(
            model=recipe.name,
            release=n,
            build_key=key(content[:20]),
            content_digest=content,
            files=files,
            made_from={"source": "file:///checkpoint", "revision": "abc", "revision_digest": key("revision")},
            made_with={"enginepress": "0.1.0", "builder": recipe.engine.builder},
            recipe=recipe.canonical(),
            served_by=["triton"],
        ),
    )
    return manifest.release


def promote(store: Store, model: str, number: int, channel: str = "production") -> None:
    activate(store, model, channel, number, who="test", why="because")


# A puller ---------------------------------------------------------------------------------------------------------------


@dataclass
class Puller:
    """A running `enginepress pull --watch`."""

    process: subprocess.Popen[str]
    folder: Path
    log: Path

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def until(self, seen: Callable[[dict[str, Any]], bool], *, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not seen(self.status()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{self.status()}\n{self.log.read_text()}"
            time.sleep(0.02)


def pull_command(store: Path | str, model: str, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "enginepress", "pull", str(store), model, "--to", str(folder), *more]


@contextmanager
def pulling(store: Path | str, model: str, folder: Path, *more: str, channel: str = "production") -> Iterator[Puller]:
    log = folder.with_name(f"{folder.name}.log")
    command = pull_command(store, model, folder, "--channel", channel, "--watch", "--every", "100ms", *more)
    with open(log, "a") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        yield Puller(process, folder, log)
    finally:
        process.kill()
        process.wait()


# Clients ----------------------------------------------------------------------------------------------------------------


@dataclass
class Clients:
    """Threads that ask without a pause, each over a connection of its own, until the block is left."""

    address: str
    model: str
    inputs: dict[str, Any]
    count: int = 3
    answers: dict[tuple[str, str], int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        with HttpConnection(self.address, timeout_s=60) as connection:
            while not self._stop.is_set():
                try:
                    status, answer = connection.ask("POST", f"/v2/models/{self.model}/generate", self.inputs)
                except Exception as error:
                    self.errors.append(repr(error))
                    continue
                with self._lock:
                    if status != 200 or "text_output" not in answer:
                        self.errors.append(f"{status} {answer}")
                        continue
                    seen = (str(answer["model_version"]), str(answer["text_output"]))
                    self.answers[seen] = self.answers.get(seen, 0) + 1

    @property
    def asked(self) -> int:
        return sum(self.answers.values()) + len(self.errors)


def ask(address: str, model: str, inputs: dict[str, Any]) -> tuple[str, str]:
    """Version and text of one answer."""
    with HttpConnection(address, timeout_s=60) as connection:
        status, answer = connection.ask("POST", f"/v2/models/{model}/generate", inputs)
    assert status == 200, answer
    return str(answer["model_version"]), str(answer["text_output"])
