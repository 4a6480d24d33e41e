"""Stores on real ext4, XFS and Btrfs: links, full disks, quotas, what pruning frees, and the power cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, activated, key, make_source, promote, publish

pytestmark = pytest.mark.root

MIB = 1024 * 1024
KINDS = {"ext4": 128, "xfs": 320, "btrfs": 256}
"""Megabytes; less is refused by the makers of XFS and Btrfs."""
OPTIONS = {"ext4": "loop,commit=600,noauto_da_alloc", "xfs": "loop,nouuid", "btrfs": "loop,commit=600"}
"""Nothing reaches the disk by itself while a test runs, and ext4 does not sync for programs that forget to."""
REFLINKS = ("xfs", "btrfs")
NOBODY = 65534


@dataclass
class MountedDisk:
    """A file system in a file.

    Attributes:
        image: the file: what is in it is what a power cut leaves.
        folder: where it is mounted.
    """

    kind: str
    image: Path
    folder: Path

    def mount(self, options: str = "") -> None:
        self.folder.mkdir(exist_ok=True)
        chosen = OPTIONS[self.kind] + options
        done = _tried("mount", "-t", self.kind, "-o", chosen, str(self.image), str(self.folder))
        if done is not None:
            pytest.skip(f"cannot mount {self.kind} here: {done}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

    @property
    def free(self) -> int:
        os.sync()
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize


def _tried(*command: str) -> str | None:
    """What went wrong, or None."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout).strip() if done.returncode else None


def make_disk(folder: Path, kind: str, options: str = "") -> MountedDisk:
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    disk = MountedDisk(kind, folder / "image", folder / "disk")
    with open(disk.image, "wb") as stream:
        stream.truncate(KINDS[kind] * MIB)
    if (problem := _tried(f"mkfs.{kind}", "-q", str(disk.image))) is not None:
        pytest.skip(f"cannot make {kind} here: {problem}")
    disk.mount(options)
    return disk


@pytest.fixture(params=sorted(KINDS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountedDisk]:
    disk = make_disk(tmp_path, request.param)
    try:
        yield disk
    finally:
        disk.unmount()


def again(store: FileStore, source: Path, name: str) -> int:
    known = {source / e.path: e.sha256 for e in hash_folder(source)}
    return publish(store, source, key(name), expected=known).release


def part(store: FileStore, number: int) -> Path:
    return store.repository(MODEL, number) / MODEL / str(number) / "engine/part0.bin"


# Links ------------------------------------------------------------------------------------------------------------------


def test_unchanged_files_take_no_space_and_reflinks_stay_files_of_their_own(disk: MountedDisk, tmp_path: Path) -> None:
    store = FileStore(disk.folder / "store")
    source = make_source(tmp_path / "source", weights=os.urandom(4 * MIB))
    again(store, source, "a")
    before = disk.free
    again(store, source, "b")
    assert before - disk.free < MIB
    one, other = part(store, 1), part(store, 2)
    assert one.samefile(other) == (disk.kind not in REFLINKS)
    assert store.verify(MODEL, 2) == []
    if disk.kind in REFLINKS:  # an edit of the old release does not reach the new one
        one.chmod(0o644)
        with open(one, "r+b") as stream:
            stream.write(b"edited")
        assert [d.path for d in store.verify(MODEL, 1)] == ["tiny/1/engine/part0.bin"]
        assert store.verify(MODEL, 2) == []


def test_pruning_frees_what_was_said(disk: MountedDisk, tmp_path: Path) -> None:
    store = FileStore(disk.folder / "store")
    source = make_source(tmp_path / "source", weights=os.urandom(4 * MIB))
    for name in "abc":
        (source / MODEL / "0/own.bin").write_bytes(os.urandom(6 * MIB))
        again(store, source, name)
    os.sync()
    said = store.freed(MODEL, [1, 2])
    assert abs(said - 12 * MIB) < MIB, "the shared weights stay in release 3"
    before = disk.free
    for number in (1, 2):
        store.remove(MODEL, number)
    deadline = time.monotonic() + 30  # XFS and Btrfs give space back a little later
    while disk.free - before < said - 2 * MIB and time.monotonic() < deadline:
        time.sleep(0.2)
    assert disk.free - before > said - 2 * MIB
    assert store.verify(MODEL, 3) == []


# Faults -----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_says_so_and_what_was_there_stays(disk: MountedDisk, tmp_path: Path) -> None:
    store = FileStore(disk.folder / "store")
    small = make_source(tmp_path / "small")
    publish(store, small)
    promote(store, "production", 1)
    big = make_source(tmp_path / "big", weights=os.urandom(KINDS[disk.kind] * MIB // 2))
    with pytest.raises(StoreError, match="publishing tiny failed: No space left on device") as caught:
        again(store, big, "b")
    assert caught.value.fix == "free some space, or name another place"
    assert store.numbers(MODEL) == [1]
    assert store.verify(MODEL, 1) == []
    assert list((store.root / MODEL / ".partial").iterdir()) == []
    assert store.channel(MODEL, "production") == 1
    assert again(store, small, "c") == 2


def test_a_disk_that_becomes_read_only_says_so_and_can_be_read(disk: MountedDisk, tmp_path: Path) -> None:
    store = FileStore(disk.folder / "store")
    source = make_source(tmp_path / "source")
    publish(store, source)
    promote(store, "production", 1)
    placement = activated(store, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    for attempt in (
        lambda: again(store, source, "b"),
        lambda: store.activate(MODEL, "production", 1, lambda _root: placement, who="a", why="b"),
        lambda: store.remove(MODEL, 1),
        lambda: store.write_record(MODEL, 1, "checks", {}),
        lambda: store.sweep(MODEL),
    ):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert "Read-only file system" in str(caught.value) or "is on production" in str(caught.value)
    assert store.channel(MODEL, "production") == 1
    assert store.verify(MODEL, 1) == []


def test_a_used_up_quota_says_so(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "xfs", ",uquota")
    try:
        limited = _tried("xfs_quota", "-x", "-c", f"limit bhard=8m {NOBODY}", str(disk.folder))
        if limited is not None:
            pytest.skip(f"cannot set a quota here: {limited}")
        os.chmod(disk.folder, 0o777)
        tmp_path.chmod(0o755)
        source = make_source(tmp_path / "source", weights=os.urandom(4 * MIB))
        os.seteuid(NOBODY)
        try:
            with pytest.raises(StoreError, match="Disk quota exceeded") as caught:
                publish(FileStore(disk.folder / "store"), source)
        finally:
            os.seteuid(0)
        assert caught.value.fix == "the quota is used up: free some space, or name another place"
        assert FileStore(disk.folder / "store").numbers(MODEL) == []
    finally:
        disk.unmount()


# The power cut ----------------------------------------------------------------------------------------------------------


def cut_power(disk: MountedDisk, folder: Path) -> MountedDisk:
    """The disk as it is if the machine stops now: what the file system has not written yet is lost."""
    folder.mkdir()
    subprocess.run(["cp", "--sparse=always", str(disk.image), str(folder / "image")], check=True)
    disk.unmount()
    left = MountedDisk(disk.kind, folder / "image", folder / "disk")
    left.mount()
    return left


def test_what_was_answered_survives_a_power_cut(disk: MountedDisk, tmp_path: Path) -> None:
    store = FileStore(disk.folder / "store")
    source = make_source(tmp_path / "source", weights=os.urandom(2 * MIB))
    for name in "abc":
        (source / MODEL / "0/own.bin").write_bytes(os.urandom(MIB))
        again(store, source, name)
        promote(store, "production", int("abc".index(name)) + 1)
    store.remove(MODEL, 1)
    store.write_record(MODEL, 3, "checks", {"passed": True})
    (disk.folder / "unsynced").write_bytes(os.urandom(MIB))
    left = cut_power(disk, tmp_path / "after")
    try:
        lost = left.folder / "unsynced"
        assert not lost.exists() or lost.stat().st_size == 0, "this cut loses what was not synced"
        found = FileStore(left.folder / "store")
        assert found.numbers(MODEL) == [2, 3]
        assert all(found.verify(MODEL, number) == [] for number in (2, 3))
        assert found.channel(MODEL, "production") == 3
        assert [m.release for m in found.history(MODEL, "production")] == [1, 2, 3]
        assert found.read_record(MODEL, 3, "checks") == {"passed": True}
        assert again(found, source, "d") == 4
    finally:
        left.unmount()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_power_cut_in_the_middle_of_a_publish_leaves_whole_releases(kind: str, tmp_path: Path) -> None:
    """The cut comes while files are being copied: the progress callback takes the image."""
    source = make_source(tmp_path / "source", weights=os.urandom(2 * MIB))
    for cut in range(2):
        (tmp_path / f"{cut}").mkdir()
        disk = make_disk(tmp_path / f"{cut}", kind)
        try:
            store = FileStore(disk.folder / "store")
            again(store, source, "a")
            (source / MODEL / "0/own.bin").write_bytes(os.urandom(3 * MIB))
            seen: list[int] = []

            def progress(count: int, disk: MountedDisk = disk, seen: list[int] = seen, cut: int = cut) -> None:
                seen.append(count)
                if len(seen) == 1 + 4 * cut:
                    subprocess.run(["cp", "--sparse=always", disk.image, f"{disk.image}.cut"], check=True)

            publish(store, source, key("b"), progress=progress)
        finally:
            disk.unmount()
        left = MountedDisk(kind, Path(f"{disk.image}.cut"), disk.folder)
        left.mount()
        try:
            found = FileStore(left.folder / "store")
            assert found.numbers(MODEL) == [1]
            assert found.verify(MODEL, 1) == []
            assert again(found, source, "b") == 2
        finally:
            left.unmount()
