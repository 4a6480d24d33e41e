"""Files that an earlier release has already are linked, if they are sound, and copied otherwise."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.stores import copying, unchanged
from enginepress.stores.filesystem import FileStore
from enginepress.stores.index import read_index
from enginepress.stores.layout import ModelFolder
from tests.stores.parts import MODEL, key, make_source, promote, publish

BIG = b"w" * (unchanged.SMALL_BYTES * 2)


def expected(source: Path) -> dict[Path, str]:
    return {source / e.path: e.sha256 for e in hash_folder(source)}


def again(store: FileStore, source: Path, name: str = "b") -> Path:
    """Publishes the source once more; its version folder."""
    number = publish(store, source, key(name), expected=expected(source)).release
    assert store.verify(MODEL, number) == []
    return version_of(store, number)


def version_of(store: FileStore, number: int) -> Path:
    return store.repository(MODEL, number) / MODEL / str(number)


def shares(store: FileStore, one: Path, other: Path) -> bool:
    """Whether two files are the same bytes on the disk: hard links here, shared blocks on file systems that can."""
    if one.samefile(other):
        return True
    if not _reflinks(store.root):
        return False
    maps = [subprocess.run(["filefrag", "-v", str(p)], capture_output=True, text=True, check=True).stdout for p in (one, other)]
    return all("shared" in m for m in maps)


def _reflinks(folder: Path) -> bool:
    (folder / "one").write_bytes(b"x" * 8192)
    try:
        done = subprocess.run(["cp", "--reflink=always", folder / "one", folder / "two"], capture_output=True, check=False)
        return done.returncode == 0
    finally:
        (folder / "one").unlink()
        (folder / "two").unlink(missing_ok=True)


@pytest.mark.parametrize("weights", [b"weights", BIG, b""], ids=["small", "big", "one byte"])
def test_unchanged_files_are_linked_and_changed_ones_copied(store: FileStore, tmp_path: Path, weights: bytes) -> None:
    source = make_source(tmp_path / "source", weights=weights)
    publish(store, source)
    (source / MODEL / "0/engine/part1.bin").write_bytes(weights[:-1] + b"!!")
    new, old = again(store, source), version_of(store, 1)
    assert shares(store, new / "engine/part0.bin", old / "engine/part0.bin")
    assert shares(store, new / "model.py", old / "model.py")
    assert not shares(store, new / "engine/part1.bin", old / "engine/part1.bin")
    assert (new / "engine/part1.bin").read_bytes() == weights[:-1] + b"!!"


def test_a_release_keeps_its_files_when_those_that_they_were_linked_from_are_removed(store: FileStore, source: Path) -> None:
    publish(store, source)
    again(store, source)
    promote(store, "production", 2)
    store.remove(MODEL, 1)
    assert store.numbers(MODEL) == [2]
    assert store.verify(MODEL, 2) == []
    assert (store.channel_path(MODEL, "production") / "tiny/2/engine/part0.bin").read_bytes() == b"weights\x00"


def test_without_digests_to_go_by_everything_is_copied(store: FileStore, source: Path) -> None:
    publish(store, source)
    publish(store, source)
    assert not (version_of(store, 2) / "model.py").samefile(version_of(store, 1) / "model.py")


def edited(path: Path) -> None:
    """Somebody changes a released file in place, and leaves its size."""
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(b"X" + content[1:])


def edited_and_backdated(path: Path) -> None:
    before = path.stat()
    edited(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncated(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"w")


def linked_out(path: Path) -> None:
    path.rename(path.parents[6] / "elsewhere")
    path.symlink_to(path.parents[6] / "elsewhere")


def touched(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("damage", [edited, edited_and_backdated, truncated, linked_out, touched, Path.unlink])
@pytest.mark.parametrize("weights", [b"weights", BIG], ids=["small", "big"])
def test_a_stored_file_that_does_not_look_sound_is_not_linked(
    store: FileStore, tmp_path: Path, damage: Callable[[Path], None], weights: bytes
) -> None:
    source = make_source(tmp_path / "source", weights=weights)
    publish(store, source)
    damage(version_of(store, 1) / "engine/part0.bin")
    part = again(store, source) / "engine/part0.bin"
    assert not part.is_symlink()
    assert part.read_bytes() == weights + b"\x00"


def test_a_link_in_place_of_a_folder_of_the_earlier_release_is_not_followed(
    store: FileStore, source: Path, tmp_path: Path
) -> None:
    publish(store, source)
    engine = version_of(store, 1) / "engine"
    engine.rename(tmp_path / "engine")
    engine.symlink_to(tmp_path / "engine")
    assert not (again(store, source) / "engine/part0.bin").samefile(tmp_path / "engine/part0.bin")


@pytest.mark.parametrize("way", ["link", "clone and link"])
def test_a_file_system_that_links_nothing_gets_copies(
    store: FileStore, source: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    publish(store, source)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # `os.link` is what locks use, too: only links of released files are refused.
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b, **k: refuse() if "releases" in str(a) else link(a, b, **k))
    monkeypatch.setattr(unchanged, "_clone", lambda *_: False)
    new = again(store, source)
    assert not (new / "model.py").samefile(version_of(store, 1) / "model.py")


def test_a_source_that_changed_since_it_was_checked_is_not_taken_for_the_stored_file(store: FileStore, tmp_path: Path) -> None:
    """The digest says that the store has it; the samples say that the source is something else now."""
    source = make_source(tmp_path / "source", weights=BIG)
    publish(store, source)
    known = expected(source)
    part = source / MODEL / "0/engine/part0.bin"
    part.write_bytes(b"X" + part.read_bytes()[1:])
    with pytest.raises(StoreError, match="was changed since it was checked"):
        publish(store, source, key("b"), expected=known)
    assert store.numbers(MODEL) == [1]


def test_files_are_found_in_the_newest_releases_and_in_those_on_channels(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "LOOK_BACK", 2)
    first = make_source(tmp_path / "first", weights=b"first")
    other = make_source(tmp_path / "other", weights=b"other")
    again(store, first, "a")
    for name in "bc":
        again(store, other, name)
    assert not (again(store, first, "d") / "engine/part0.bin").samefile(version_of(store, 1) / "engine/part0.bin")
    third = make_source(tmp_path / "third", weights=b"third")
    promote(store, "production", 1)
    for name in "ef":
        again(store, third, name)
    assert (again(store, first, "g") / "engine/part0.bin").samefile(version_of(store, 1) / "engine/part0.bin")


def test_a_damaged_manifest_or_channel_only_costs_a_copy(store: FileStore, source: Path) -> None:
    publish(store, source)
    manifest = store.root / MODEL / "releases/1/manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    (store.root / MODEL / "channels").mkdir()
    (store.root / MODEL / "channels/production").symlink_to("/etc")
    again(store, source)


def test_progress_counts_linked_bytes_too(store: FileStore, source: Path) -> None:
    publish(store, source)
    seen: list[int] = []
    publish(store, source, key("b"), expected=expected(source), progress=seen.append)
    assert sum(seen) == sum(p.stat().st_size for p in (source / MODEL / "0").rglob("*") if p.is_file())


# Copying ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 6])
def test_many_files_of_all_sizes_arrive_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(copying, "WORKERS", workers)
    sizes = [0, 1, 4095, copying.BLOCK_BYTES, copying.BLOCK_BYTES + 1, 17 * copying.BLOCK_BYTES + 3, *range(1, 40)]
    copies = []
    (tmp_path / "to").mkdir()
    for index, size in enumerate(sizes):
        path = tmp_path / f"from{index}"
        path.write_bytes(os.urandom(size))
        copies.append(copying.Copy(f"f{index:03}", path, tmp_path / "to" / f"f{index:03}"))
    seen: list[int] = []
    entries = copying.copy_all(copies, seen.append)
    assert sum(seen) == sum(sizes)
    assert tuple(entries) == hash_folder(tmp_path / "to")
    assert [e.size for e in entries] == sizes


def test_one_file_that_cannot_be_copied_ends_all(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"good")
    (tmp_path / "bad").mkdir()
    copies = [copying.Copy(n, tmp_path / n, tmp_path / f"to-{n}") for n in ("good", "bad")]
    with pytest.raises(OSError, match="Is a directory"):
        copying.copy_all(copies, None)


def test_the_error_is_that_of_the_file_that_could_not_be_copied_and_not_of_those_that_were_broken_off(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(4 * copying.BLOCK_BYTES))
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "to-small").write_bytes(b"in the way")
    copies = [copying.Copy(n, tmp_path / n, tmp_path / f"to-{n}") for n in ("large", "small")]
    with pytest.raises(FileExistsError):
        copying.copy_all(copies, lambda _count: time.sleep(0.2))


# The index ----------------------------------------------------------------------------------------------------------------


def listed(store: FileStore) -> list[int]:
    return sorted(read_index(ModelFolder(store.root, MODEL)))


def damaged_index(text: str, damage: str) -> str:
    """The index of releases 1 to 3, after what a kill, a power cut or an older version may have done to it."""
    lines = text.splitlines(keepends=True)
    return {
        "empty": "",
        "no sense": "{}",
        "another format": text.replace("index 1", "index 2"),
        "cut in a line": text[:-10],
        "cut in the head": text[:10],
        "a line of zeros": "".join([*lines[:2], "\0" * len(lines[2]), lines[3]]),
        "a line twice": text + lines[1],
    }[damage]


@pytest.mark.parametrize(
    "damage",
    ["gone", "empty", "no sense", "another format", "cut in a line", "cut in the head", "a line of zeros", "a line twice"],
)
def test_an_index_that_is_missing_or_damaged_is_done_without_and_mended(store: FileStore, source: Path, damage: str) -> None:
    for name in "abc":
        publish(store, source, key(name))
    path = store.root / MODEL / "index.txt"
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(damaged_index(text, damage))
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        found = store.find(MODEL, key(name))
        assert found is not None
        assert found.release == number
    assert store.find(MODEL, key("d")) is None
    publish(store, source, key("d"))
    assert listed(store) == [1, 2, 3, 4]


def test_the_index_is_never_believed_against_the_manifest(store: FileStore, source: Path) -> None:
    for name in "ab":
        publish(store, source, key(name))
    path = store.root / MODEL / "index.txt"
    head, first, _ = path.read_text().splitlines()
    path.write_text("\n".join([head, first, "2" + first[1:]]) + "\n")
    found = store.find(MODEL, key("a"))
    assert found is not None
    assert found.release == 1


def test_removed_releases_are_not_found_and_leave_the_index_when_it_has_grown(store: FileStore, source: Path) -> None:
    for name in "ab":
        publish(store, source, key(name))
    store.remove(MODEL, 1)
    assert store.find(MODEL, key("a")) is None
    path = store.root / MODEL / "index.txt"
    path.write_text(path.read_text() + "".join(f"{n} {key('x')} {key('y')}\n" for n in range(100, 300)))
    publish(store, source, key("c"))
    assert listed(store) == [2, 3]
