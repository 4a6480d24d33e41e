"""Stores on file systems that are full, read-only or not ours to write."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import StoreError
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, activated, make_source, promote, publish

NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_a_full_store_says_so_and_keeps_what_it_has(small_disk: Path, tmp_path: Path) -> None:
    store = FileStore(small_disk)
    publish(store, make_source(tmp_path / "small"))
    promote(store, "production", 1)
    big = make_source(tmp_path / "big", weights=b"w" * 400_000)
    with pytest.raises(StoreError, match="publishing tiny failed: No space left on device") as caught:
        publish(store, big)
    assert caught.value.fix == "free some space, or name another place"
    assert store.numbers(MODEL) == [1]
    assert store.verify(MODEL, 1) == []
    assert list((small_disk / MODEL / ".partial").iterdir()) == []

    (small_disk / "ballast").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    with pytest.raises(StoreError, match="No space left on device"):
        promote(store, "production", 1)
    assert store.channel(MODEL, "production") == 1
    assert len(store.history(MODEL, "production")) == 1
    (small_disk / "ballast").unlink()
    assert publish(store, make_source(tmp_path / "again")).release == 2


@pytest.mark.root
def test_a_read_only_store_says_so_and_can_be_read(small_disk: Path, tmp_path: Path) -> None:
    store = FileStore(small_disk)
    source = make_source(tmp_path / "source")
    publish(store, source)
    promote(store, "production", 1)
    placement = activated(store, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    attempts = {
        "publish": lambda: publish(store, source),
        "activate": lambda: store.activate(MODEL, "production", 1, lambda _root: placement, who="a", why="b"),
        "record": lambda: store.write_record(MODEL, 1, "checks", {}),
    }
    for attempt in attempts.values():
        with pytest.raises(StoreError, match="Read-only file system") as caught:
            attempt()
        assert caught.value.fix == "the file system is mounted read-only: mount it writable, or name another place"
    assert store.channel(MODEL, "production") == 1
    assert store.verify(MODEL, 1) == []


def test_a_store_that_we_may_not_write_says_so(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(Path(folder) / "store")
        store.root.mkdir()
        store.root.chmod(0o555)
        Path(folder).chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(StoreError, match="Permission denied") as caught:
                publish(store, source)
        finally:
            if root:
                os.seteuid(0)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(store.root))
    assert "the right to write there" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ESTALE, "mount it again there"), (errno.EIO, "look into the system's log"), (errno.EDQUOT, "quota")],
)
@pytest.mark.parametrize("call", ["fsync", "rename", "link"])
def test_a_file_system_that_fails_in_a_call_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, said: str
) -> None:
    """Stands in for a stale NFS handle, a dying disk and a quota, at three calls."""
    store = FileStore(tmp_path / "store")
    source = make_source(tmp_path / "source")
    publish(store, source)
    real = getattr(os, call)

    def fail(*arguments: object, **named: object) -> object:
        if call != "link" or "release" in str(arguments[0]) or ".partial" in str(arguments[0]):
            raise OSError(number, os.strerror(number), str(store.root))
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError) as caught:
        publish(store, source)
    monkeypatch.undo()
    assert said in (caught.value.fix or "")
    assert store.numbers(MODEL) == [1]
    assert publish(store, source).release == 2
    assert list((store.root / MODEL / ".partial").iterdir()) == []
