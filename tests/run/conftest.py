"""Finished runs that many tests look at, and cheap copies of them for tests that change something."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enginepress.locks import Lock
from tests.engines.checkpoints import make_checkpoint
from tests.run.recipes import run_json, write_recipe


@dataclass(frozen=True)
class Finished:
    """A run that has ended well: its recipe (in its own folder, with store, workspace and registry) and what it printed."""

    recipe: Path
    result: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.recipe.parent


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all processes among which the tests are divided."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with Lock(folder.with_suffix(".lock"), about=name):
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
    return folder


def _finished(folder: Path) -> Finished:
    return Finished(folder / "site" / "recipe.yaml", json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        make_checkpoint(folder / "tiny", "llama")

    return _once(tmp_path_factory, "checkpoint", make) / "tiny"


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Finished:
    def make(folder: Path) -> None:
        result = run_json(write_recipe(folder / "site", checkpoint))
        (folder / "result.json").write_text(json.dumps(result))

    return _finished(_once(tmp_path_factory, "finished", make))


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path, checkpoint: Path) -> Finished:
    """A copy of the finished run at another place. Its registry is the copied database, its records are the same."""
    folder = tmp_path / "site"
    shutil.copytree(finished_once.folder, folder, symlinks=True)
    return Finished(write_recipe(folder, checkpoint), finished_once.result)


SECOND = {"max_concurrent_requests": 5}
"""`serving` of the recipe of release 2."""


@pytest.fixture(scope="session")
def finished_twice_once(finished_once: Finished, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Finished:
    def make(folder: Path) -> None:
        shutil.copytree(finished_once.folder, folder / "site", symlinks=True)
        result = run_json(write_recipe(folder / "site", checkpoint, serving=SECOND))
        (folder / "result.json").write_text(json.dumps(result))

    return _finished(_once(tmp_path_factory, "finished-twice", make))


@pytest.fixture
def finished_twice(finished_twice_once: Finished, tmp_path: Path, checkpoint: Path) -> Finished:
    """A copy of two finished runs: release 1, and release 2, which `candidate` names."""
    folder = tmp_path / "site"
    shutil.copytree(finished_twice_once.folder, folder, symlinks=True)
    return Finished(write_recipe(folder, checkpoint, serving=SECOND), finished_twice_once.result)


@pytest.fixture
def built(finished_once: Finished, tmp_path: Path) -> Path:
    """A folder whose workspace has the checkpoint and the engine already: for tests that are about what comes after."""
    for kind in ("checkpoints", "engines"):
        shutil.copytree(finished_once.folder / "workspace" / kind, tmp_path / "workspace" / kind, symlinks=True)
    return tmp_path
