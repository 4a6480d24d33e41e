"""Publish, channel move and removal, killed at every system call that changes the store, one by one; and the power cut there.

While a process is killed, a reader looks at every release and at the channel all the time. Afterwards the same work is done
again, must succeed, and must leave nothing behind. The unmarked test takes a sample of the calls, the slow one all.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from enginepress import locks
from enginepress.stores import layout
from enginepress.stores.filesystem import FileStore
from tests.stores.disk_model import Disk
from tests.stores.parts import MODEL, key, make_source, promote, publish
from tests.stores.processes import watched
from tests.stores.syscalls import NEEDED, Call, changing, killed_at, record_calls

pytestmark = NEEDED

OPERATIONS = ["first publish", "publish", "promote", "first promote", "remove"]
SWEEPS = [
    *(pytest.param(operation, "sample", id=f"{operation}, a sample") for operation in ("publish", "promote", "remove")),
    *(pytest.param(operation, "all", id=operation, marks=pytest.mark.slow) for operation in OPERATIONS),
]


class Scene:
    """A store before the operation, and copies of it to try things with."""

    def __init__(self, folder: Path, operation: str) -> None:
        self.folder = folder
        self.operation = operation
        self.source = make_source(folder / "source", files=3)
        self.before = folder / "before"
        self.before.mkdir()
        store = FileStore(self.before)
        if operation != "first publish":
            publish(store, self.source)
            publish(store, self.source, key("b"))
            publish(store, self.source, key("c"))
            if operation != "first promote":
                for number in (1, 2, 3):
                    promote(store, "production", number)
            (self.source / MODEL / "0/engine/part1.bin").write_bytes(b"another")
        self._copies = 0

    def store(self) -> FileStore:
        """A fresh copy, links kept."""
        self._copies += 1
        target = self.folder / f"copy{self._copies:04}"
        os.system(f"cp -a '{self.before}' '{target}'")
        return FileStore(target)

    def arguments(self, store: FileStore) -> list[str]:
        verb, *rest = {
            "publish": ["publish", str(self.source), key("d")],
            "promote": ["promote", "production", "2"],
            "remove": ["remove", "1"],
        }[self.operation.removeprefix("first ")]
        return [verb, str(store.root), *rest]

    def do(self, store: FileStore) -> None:
        """The same operation in this process, where the killed one may have done it already."""
        if "publish" in self.operation:
            publish(store, self.source, key("d"))
        elif "promote" in self.operation:
            promote(store, "production", 2)
        elif 1 in store.numbers(MODEL):
            store.remove(MODEL, 1)


@pytest.fixture(autouse=True)
def nobody_waits_for_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process cannot be told from a living one by, goes by its age: at once instead of in ten minutes."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(layout, "ABANDONED_SECONDS", 0.0)


def chosen(calls: list[Call], extent: str, count: int) -> list[Call]:
    """All of them, or the last commits and some in between."""
    if extent == "all":
        return calls
    renames = [call for call in calls if call.name == "rename"]
    step = max(1, len(calls) // count)
    return [call for call in calls if call in renames[-2:] or call in calls[::step]]


@pytest.mark.parametrize(("operation", "extent"), SWEEPS)
def test_killed_at_any_call_readers_see_whole_releases_and_the_next_one_goes_on(
    tmp_path: Path, operation: str, extent: str
) -> None:
    scene = Scene(tmp_path, operation)
    first = scene.store()
    calls = changing(record_calls(scene.arguments(first), first.root, tmp_path / "log"))
    assert len(calls) > 15, "the operation changes the store"
    check_whole(first)
    for call in chosen(calls, extent, 2):
        store = scene.store()
        with watched(store) as problems:
            killed_at(call, scene.arguments(store))
            check_whole(store)
            scene.do(store)
        assert problems == [], call
        check_whole(store)
        check_nothing_leaks(scene, store, call)
        shutil.rmtree(store.root)


@pytest.mark.parametrize(("operation", "extent"), SWEEPS)
def test_a_power_cut_at_any_call_leaves_whole_releases(tmp_path: Path, operation: str, extent: str) -> None:
    """The calls are replayed on a disk that keeps only what was synced, or every name and of the contents only those."""
    scene = Scene(tmp_path, operation)
    store = scene.store()
    disk = Disk(store.root)
    calls = record_calls(scene.arguments(store), store.root, tmp_path / "log")
    cuts = {id(call) for call in chosen(changing(calls), extent, 2)} | {id(calls[-1])}
    for call in calls:
        disk.apply(call)
        if id(call) not in cuts:
            continue
        for write in (disk.write_durable, disk.write_names_only):
            left = FileStore(tmp_path / "left")
            write(left.root)
            check_whole(left)
            scene.do(left)
            check_whole(left)
            check_nothing_leaks(scene, left, call)
            shutil.rmtree(left.root)
    disk.write_durable(tmp_path / "end")
    check_same(store, FileStore(tmp_path / "end"))


# What must hold -------------------------------------------------------------------------------------------------------


def check_whole(store: FileStore) -> None:
    """Every release is what its manifest says, the channel leads to one, and the history says how."""
    for number in store.numbers(MODEL):
        assert store.verify(MODEL, number) == []
    for channel, number in store.channels(MODEL).items():
        assert store.channel(MODEL, channel) == number
        assert number in store.numbers(MODEL)
        assert store.history(MODEL, channel)[-1].release == number
        target = store.activation(MODEL, channel)
        release = store.repository(MODEL, number)
        assert target is not None
        for path in (p for p in release.rglob("*") if p.is_file()):
            assert (target / path.relative_to(release)).stat().st_size == path.stat().st_size


def check_nothing_leaks(scene: Scene, store: FileStore, call: Call) -> None:
    """After a publish, a move and a sweep no leftover is there, hidden or not."""
    number = publish(store, scene.source, key("e")).release
    promote(store, "production", number)
    store.sweep(MODEL)
    root = store.root / MODEL
    assert list((root / ".partial").iterdir()) == [], call
    assert list((root / ".locks").iterdir()) == [], call
    assert len(list((root / "activations").iterdir())) <= 2, call
    hidden = [p for p in root.rglob(".*") if p.name not in (".partial", ".locks")]
    assert hidden == [], call
    assert store.strays(MODEL) == [], call
    check_whole(store)


def check_same(one: FileStore, other: FileStore) -> None:
    """What was answered as done is on the disk."""
    assert one.numbers(MODEL) == other.numbers(MODEL)
    assert one.channels(MODEL) == other.channels(MODEL)
    assert one.releases(MODEL) == other.releases(MODEL)
    for channel in one.channels(MODEL):
        assert one.history(MODEL, channel) == other.history(MODEL, channel)
    check_whole(other)
