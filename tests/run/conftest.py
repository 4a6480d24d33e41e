"""One finished run that many tests look at, and cheap copies of it for tests that change something."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", "llama")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Finished:
    recipe = write_recipe(tmp_path_factory.mktemp("finished") / "site", checkpoint)
    return Finished(recipe, run_json(recipe))


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path, checkpoint: Path) -> Finished:
    """A copy of the finished run at another place. Its registry is the copied database, its records are the same."""
    folder = tmp_path / "site"
    shutil.copytree(finished_once.folder, folder, symlinks=True)
    return Finished(write_recipe(folder, checkpoint), finished_once.result)
