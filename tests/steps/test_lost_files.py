"""A release that has lost files in its store is noticed by names and sizes, published anew, and undoes nobody's decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import StoreError
from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe
from enginepress.repository import Placement
from enginepress.steps.changed import changed, for_watching
from enginepress.steps.lost_files import INSTEAD_OF, keep_channels
from enginepress.steps.outstanding import outstanding
from enginepress.steps.promote import activate, unmoved
from enginepress.steps.resolve import plan_of
from enginepress.stores.filesystem import FileStore
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.sources.tiny import checkpoint, write
from tests.steps.pretend import pretend_release


class Site:
    """A recipe whose release 1 is in its two stores, promoted and registered."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder / "workspace")
        self.folder = folder
        write(folder / "checkpoint", checkpoint())
        self.path = folder / "tiny.yaml"
        registry = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
        stores = [f"file://{folder}/{name}" for name in ("first", "second")]
        source = f"file://{folder}/checkpoint"
        self.path.write_text(yaml.safe_dump({"name": "tiny", "source": source, "stores": stores, "registry": registry}))
        plan, revision = plan_of(self.recipe, self.workspace.path("cache"), "r")
        pretend_release(self.recipe, plan, revision, folder)
        second = self.recipe.model_copy(update={"stores": self.recipe.stores[1:]})
        pretend_release(second, plan, revision, folder)

    @property
    def recipe(self) -> Recipe:
        return for_watching(load_recipe(self.path))

    def store(self, index: int) -> FileStore:
        store = open_store(self.recipe.stores[index])
        assert isinstance(store, FileStore)
        return store

    def release(self, index: int) -> Path:
        return self.store(index).repository("tiny", 1) / "tiny" / "1"

    def outstanding(self) -> list[str]:
        return outstanding(self.recipe, plan_of(self.recipe, self.workspace.path("cache"), "r")[0])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def gone(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(b"")


def swapped_for_a_link(file: Path) -> None:
    file.rename(file.parents[5] / "elsewhere")
    file.symlink_to(file.parents[5] / "elsewhere")


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (gone, "tiny/1/model.py is missing"),
    (truncated, "tiny/1/model.py is not what was published"),
    (swapped_for_a_link, "tiny/1/model.py is a symbolic link, not the file"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=lambda d: getattr(d, "__name__", ""))
def test_a_release_that_lost_a_file_is_to_be_published_anew(site: Site, damage: Callable[[Path], Any], said: str) -> None:
    assert site.outstanding() == []
    damage(site.release(0) / "model.py")
    assert site.outstanding() == [f"publish anew, since release 1 is not whole any more: {said}"]
    (change,) = changed([site.path], site.workspace)
    assert (change.state, change.release) == ("unfinished", 0)
    assert said in change.reasons[0]


def test_a_file_more_is_no_reason_to_publish_anew(site: Site) -> None:
    (site.release(0) / ".nfs0001").write_bytes(b"x")
    assert site.outstanding() == []


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=lambda d: getattr(d, "__name__", ""))
def test_another_store_that_lost_a_file_is_for_an_operator(site: Site, damage: Callable[[Path], Any], said: str) -> None:
    damage(site.release(1) / "model.py")
    with pytest.raises(StoreError, match="release 1 is not whole any more") as error:
        site.outstanding()
    assert said in error.value.message
    assert error.value.where == str(site.release(1).parents[1])
    assert "remove the release there and run again" in (error.value.fix or "")


def _in_stead(site: Site, before: int) -> int:
    """A release with the same build key, as publish makes it instead of one that lost files."""
    store, model = site.store(0), site.folder / "model.py"
    old = store.manifest("tiny", before)

    def describe(number: int, files: tuple[Any, ...]) -> Manifest:
        return replace(old, release=number, files=files, made_with={**old.made_with, INSTEAD_OF: before})

    def place(number: int) -> Placement:
        return Placement(number, {"tiny/config.pbtxt": b""}, {f"tiny/{number}/model.py": model})

    return store.publish("tiny", place=place, describe=describe).release


def test_its_channels_move_to_the_release_in_its_stead(site: Site) -> None:
    number = _in_stead(site, 1)
    keep_channels(site.recipe, site.store(0), number)
    assert [(s.url, channel) for s, channel in unmoved(site.recipe, number)] == [(site.store(0).url, "candidate")]


def test_a_channel_that_an_operator_moved_away_from_it_stays(site: Site) -> None:
    store = site.store(0)
    other = _in_stead(site, 1)
    number = _in_stead(site, 1)
    activate(store, "tiny", "candidate", other, who="ana", why="not that one")
    keep_channels(site.recipe, store, number)
    assert unmoved(site.recipe, number) == []
    assert store.channel("tiny", "candidate") == other
    last = _in_stead(site, number)
    keep_channels(site.recipe, store, last)
    assert unmoved(site.recipe, last) == [], "nor does the next one take it"
