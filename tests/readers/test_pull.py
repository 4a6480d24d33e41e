"""A reader's folder: what is pulled is what was published, is there once, and is whole whatever is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError, UsageError
from enginepress.files import hash_file
from enginepress.repository.config import parse_config
from enginepress.repository.place import content_digest_of
from enginepress.repository.validate import validate
from enginepress.steps.pull import PullResult, pull_release, reader_folder, wanted_release
from enginepress.stores import vouching
from enginepress.stores.filesystem import FileStore
from enginepress.stores.pulled import PulledFolder
from tests.readers.site import promote, publish, toy_recipe, toy_release
from tests.repository import samples


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Releases 1 and 2 of the toy model, with the same weights."""
    store = FileStore(tmp_path / "store")
    for word in ("alpha", "beta"):
        publish(store, toy_release(tmp_path / word, word), toy_recipe())
    return store


def reader(tmp_path: Path, **more: Any) -> PulledFolder:
    return reader_folder(tmp_path / "reader", **{"root": None, "grace_s": 600.0, "keep": 1, **more})


def pull(store: FileStore, number: int, target: PulledFolder, **more: Any) -> PullResult:
    return pull_release(store, "toy", number, target, **more)


def test_what_is_pulled_is_the_release_placed_for_its_folder(store: FileStore, tmp_path: Path) -> None:
    done = pull(store, 2, reader(tmp_path))
    assert done.folder == tmp_path / "reader" / "current"
    assert done.changed
    assert content_digest_of(done.folder.resolve()) == store.manifest("toy", 2).content_digest
    assert (done.folder / "toy" / "2" / "model.py").read_text().count("beta") == 1
    assert not any(f.severity == "error" for f in validate(done.folder.resolve()).findings)
    assert not pull(store, 2, reader(tmp_path)).changed


def test_a_folder_that_another_model_is_in_is_refused_and_keeps_what_it_has(store: FileStore, tmp_path: Path) -> None:
    pull(store, 2, reader(tmp_path))
    publish(store, toy_release(tmp_path / "other", "gamma", name="other"), toy_recipe("other"))
    with pytest.raises(UsageError, match="holds a release of toy, not of other") as caught:
        pull_release(store, "other", 1, reader(tmp_path))
    assert "--to" in str(caught.value.fix)
    assert not pull(store, 2, reader(tmp_path)).changed


def test_paths_start_where_the_reader_sees_the_folder_and_follow_when_that_changes(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    recipe = toy_recipe("llama")
    publish(store, samples.write(tmp_path / "unplaced", samples.tensorrt_llm("0")), recipe)

    def engine_path(folder: PulledFolder) -> str:
        done = pull_release(store, "llama", 1, folder)
        config = parse_config((done.folder / "llama-engine.r1" / "config.pbtxt").read_bytes(), "engine")
        return str(config.parameters["gpt_model_path"].string_value)

    here = engine_path(reader(tmp_path))
    assert here.startswith(f"{tmp_path}/reader/activations/1-")
    assert Path(here).is_dir()
    there = engine_path(reader(tmp_path, root="/models/llama"))
    assert there.startswith("/models/llama/activations/1-")
    assert there.endswith("/./llama-engine.r1/1/engine")


def test_files_that_two_releases_share_are_there_once(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    before = pull(store, 1, target).folder.resolve()
    after = pull(store, 2, target).folder.resolve()
    assert os.path.samefile(before / "toy/1/weights.bin", after / "toy/2/weights.bin")
    assert not os.path.samefile(before / "toy/1/model.py", after / "toy/2/model.py")


def test_configs_are_newer_than_all_that_was_read_before_even_if_the_clock_went_back(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    before = pull(store, 2, target).folder.resolve()
    future = 4_000_000_000
    os.utime(before / "toy/config.pbtxt", (future, future))
    after = pull(store, 1, target).folder.resolve()
    assert (after / "toy/config.pbtxt").stat().st_mtime > future


def test_what_is_not_current_any_more_goes_after_its_grace(store: FileStore, tmp_path: Path) -> None:
    first = pull(store, 1, reader(tmp_path)).folder.resolve()
    pull(store, 2, reader(tmp_path))
    assert first.is_dir()
    past = first.stat().st_mtime - 601
    os.utime(first, (past, past))
    pull(store, 2, reader(tmp_path))
    assert not first.exists()
    assert len(os.listdir(tmp_path / "reader" / "releases")) == 2
    pull(store, 2, reader(tmp_path, keep=0))
    assert [name.split("-")[0] for name in os.listdir(tmp_path / "reader" / "releases")] == ["2"]


def test_a_way_back_fetches_nothing(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path, grace_s=0.0)
    pull(store, 1, target)
    pull(store, 2, target)
    shutil.rmtree(tmp_path / "store" / "toy" / "releases" / "1" / "repository" / "toy")
    assert pull(store, 1, target).release == 1


@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_bytes_that_are_not_those_of_the_manifest_are_refused(store: FileStore, tmp_path: Path, change: str) -> None:
    target = reader(tmp_path)
    pull(store, 1, target)
    path = store.repository("toy", 2) / "toy" / "2" / "model.py"
    path.chmod(0o644)
    data = path.read_bytes()
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if change == "cut" else data[:-1] + b"#")
    with pytest.raises(StoreError, match=r"model\.py"):
        pull(store, 2, target)
    assert target.current() is not None
    assert (target.current_link / "toy" / "1").is_dir()
    path.write_bytes(data)
    assert pull(store, 2, target).release == 2


def test_a_pulled_file_that_was_cut_from_outside_is_fetched_again(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    done = pull(store, 1, target)
    (done.folder / "toy" / "1" / "weights.bin").chmod(0o644)
    with open(done.folder / "toy" / "1" / "weights.bin", "wb"):
        pass
    done = pull(store, 1, target)
    assert done.changed
    assert (done.folder / "toy" / "1" / "weights.bin").read_bytes() == b"weights" * 1000


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("toy/1/model.py", "replace"),
        ("toy/1/weights.bin", "remove"),
        ("toy/config.pbtxt", "replace"),
        ("toy/config.pbtxt", "write"),
    ],
)
def test_what_readers_see_is_made_anew_if_it_is_not_the_release_any_more(
    store: FileStore, tmp_path: Path, path: str, change: str
) -> None:
    """An editor puts another file in the place of a link, so the release behind it is still whole."""
    target = reader(tmp_path)
    seen = pull(store, 1, target).folder / path
    data = seen.read_bytes()
    if change != "write":
        seen.unlink()
    if change != "remove":
        seen.write_bytes(data.replace(b"toy", b"evil") + b"# edited\n")
    assert pull(store, 1, target).changed
    assert seen.read_bytes() == data
    assert not pull(store, 1, target).changed


def test_what_a_server_writes_beside_a_release_is_left_alone(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    cache = pull(store, 1, target).folder / "toy" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"code")
    assert not pull(store, 1, target).changed


def test_what_was_put_into_a_fetched_release_is_not_served_with_it(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    pull(store, 1, target)
    (fetched,) = (tmp_path / "reader" / "releases").iterdir()
    samples.write(fetched / "repository", {"evil/config.pbtxt": 'name: "evil"', "evil/1/model.py": "x", "toy/1/more.py": "x"})
    done = pull(store, 1, target)
    assert sorted(os.listdir(done.folder)) == ["toy"]
    assert sorted(os.listdir(done.folder / "toy" / "1")) == ["model.py", "weights.bin"]
    assert not pull(store, 1, target).changed


def test_a_damaged_manifest_in_the_readers_folder_is_written_anew_once(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    pull(store, 1, target)
    (manifest,) = (tmp_path / "reader" / "releases").glob("*/manifest.json")
    whole = manifest.read_bytes()
    manifest.unlink()
    manifest.write_text("{")
    pull(store, 1, target)
    assert manifest.read_bytes() == whole
    assert not pull(store, 1, target).changed


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that are read to see whether they are still what was fetched."""
    names: list[str] = []

    def hashed(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(vouching, "hash_file", hashed)
    return names


def test_a_pulled_file_that_was_written_into_is_fetched_again_and_others_are_not_read(
    store: FileStore, tmp_path: Path, read: list[str]
) -> None:
    target = reader(tmp_path)
    done = pull(store, 1, target)
    weights = done.folder / "toy" / "1" / "weights.bin"
    weights.chmod(0o644)
    with open(weights, "r+b") as stream:
        stream.write(b"WEIGHTS")
    again = pull(store, 1, target)
    assert again.changed
    assert weights.read_bytes() == b"weights" * 1000, "current leads to the new one"
    assert read == ["weights.bin", "weights.bin"], "once for what readers see, once for what lies there"
    assert not pull(store, 1, target).changed
    assert len(read) == 2, "what nobody has touched is not read again"


def test_what_nothing_vouches_for_is_hashed_once(store: FileStore, tmp_path: Path, read: list[str]) -> None:
    """The volume was copied, or the record is gone or senseless."""
    pull(store, 1, reader(tmp_path))
    shutil.copytree(tmp_path / "reader", tmp_path / "copy" / "reader", symlinks=True)
    target = reader(tmp_path / "copy")
    count = len(store.manifest("toy", 1).files)
    now = pull(store, 1, target)
    assert now.changed, "its paths start elsewhere now"
    assert len(read) == count
    (record,) = (tmp_path / "copy" / "reader" / "releases").glob("*/verified.json")
    for text in ("", "[]", '{"a": 1}'):
        read.clear()
        record.write_text(text)
        assert not pull(store, 1, target).changed
        assert not pull(store, 1, target).changed
        assert len(read) == count


def test_a_fetch_goes_on_where_it_was_and_keeps_what_is_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    weights = os.urandom(20 * 1024 * 1024)
    publish(store, toy_release(tmp_path / "unplaced", "alpha", weights=weights), toy_recipe())
    target = reader(tmp_path)

    class KilledError(Exception):
        pass

    def kill(meter: object) -> None:
        partial = (tmp_path / "reader" / "partial").glob("*/repository/.fetching/*")
        if any(path.stat().st_size > 8_000_000 for path in partial):
            raise KilledError

    with pytest.raises(KilledError):
        pull(store, 1, target, progress=kill)
    kept = {p: p.stat() for p in (tmp_path / "reader" / "partial").rglob("*") if p.is_file()}
    assert 0 < sum(s.st_size for s in kept.values()) < len(weights)
    copied = _count_bytes_written(lambda: pull(store, 1, target))
    assert copied < len(weights) - 4_000_000
    assert (target.current_link / "toy/1/weights.bin").read_bytes() == weights


def _count_bytes_written(work: Callable[[], object]) -> int:
    def written() -> int:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["wchar"])

    before = written()
    work()
    return written() - before


def test_what_an_interrupted_fetch_left_beside_the_release_does_not_become_part_of_it(store: FileStore, tmp_path: Path) -> None:
    target = reader(tmp_path)
    digest = store.manifest("toy", 1).digest[:16]
    left = tmp_path / "reader" / "partial" / f"1-{digest}" / "repository"
    samples.write(left, {"toy/1/weights.bin.part": "x", "other/config.pbtxt": "x", "toy/1/model.py": "half"})
    done = pull(store, 1, target)
    assert sorted(os.listdir(done.folder)) == ["toy"]
    assert sorted(os.listdir(done.folder / "toy" / "1")) == ["model.py", "weights.bin"]
    assert content_digest_of(done.folder.resolve()) == store.manifest("toy", 1).content_digest


@pytest.mark.parametrize("inside", [".", "toy", "toy/releases/1/reader"])
def test_a_readers_folder_in_the_store_itself_is_refused(store: FileStore, tmp_path: Path, inside: str) -> None:
    (tmp_path / "link").symlink_to(store.root)
    for root in (store.root, tmp_path / "link"):
        target = reader_folder(root / inside, root=None, grace_s=600.0, keep=1)
        with pytest.raises(UsageError, match="lies in the store"):
            pull(store, 2, target)
    assert store.strays() == store.strays("toy") == store.verify("toy", 1) == []


def test_a_folder_that_stands_where_the_link_belongs_is_named_before_anything_is_fetched(
    store: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "reader" / "current" / "toy").mkdir(parents=True)
    with pytest.raises(StoreError, match="stands where a link to the release belongs") as caught:
        pull(store, 2, reader(tmp_path))
    assert "--to" in str(caught.value.fix)
    assert not (tmp_path / "reader" / "releases").exists()


def test_a_channel_that_is_not_there_is_named_with_those_that_are(store: FileStore) -> None:
    promote(store, "toy", 2)
    with pytest.raises(StoreError) as caught:
        wanted_release(store, "toy", "prod")
    assert "production (release 2)" in str(caught.value.fix)


@pytest.mark.root
def test_a_model_or_store_that_is_not_there_is_named_as_such(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no model 'toi'") as caught:
        wanted_release(store, "toi", "production")
    assert caught.value.fix == "there are: toy"
    with pytest.raises(StoreError, match="holds no models"):
        wanted_release(FileStore(tmp_path / "nowhere"), "toy", "production")


def test_a_disk_without_room_is_told_before_anything_is_fetched_and_kept_releases_give_way(tmp_path: Path) -> None:
    """On a tmpfs that holds two releases and not three."""
    store = FileStore(tmp_path / "store")
    size = 60 * 1024 * 1024
    for word in ("alpha", "beta", "gamma"):
        publish(store, toy_release(tmp_path / word, word, weights=os.urandom(size)), toy_recipe())
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(disk)], check=True)
    try:
        target = reader_folder(disk / "reader", root=None, grace_s=600.0, keep=1)
        pull(store, 1, target)
        pull(store, 2, target)
        with pytest.raises(StoreError, match="MB more than is there already, and 8") as caught:
            pull(store, 3, target)
        assert "larger" in str(caught.value.fix)
        assert (target.current_link / "toy" / "2").is_dir()
        assert list((disk / "reader" / "partial").rglob("weights.bin")) == []
        # The grace over, what was only kept for a way back makes room.
        target = reader_folder(disk / "reader", root=None, grace_s=0.0, keep=1)
        assert pull(store, 3, target).release == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Killed anywhere ------------------------------------------------------------------------------------------------------

CHANGES = ("link", "symlink", "replace", "rename", "mkdir", "unlink", "rmdir", "fsync", "utime")


def _killed_at(count: int, work: Callable[[], object]) -> bool:
    """Does the work in a process of its own that ends, as by SIGKILL, at its count-th change of the disk. False: it finished."""
    child = os.fork()
    if child == 0:
        seen = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == count:
                    os._exit(9)
                return real(*arguments, **options)

            return call

        try:
            for name in CHANGES:
                setattr(os, name, counted(getattr(os, name)))
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), f"the pull failed at change {count}"
    return status == 9


@pytest.mark.slow
def test_killed_at_any_change_the_folder_is_whole_and_the_next_pull_finishes(store: FileStore, tmp_path: Path) -> None:
    """From release 1 to 2, killed at the first change, at the second, … ; what readers see is always one of the two, whole."""
    wanted = {n: store.manifest("toy", n).content_digest for n in (1, 2)}
    started = tmp_path / "started"
    pull(store, 1, reader_folder(started, root=None, grace_s=0.0, keep=0))
    count, done = 1, False
    while not done:
        folder = tmp_path / f"killed-{count}"
        shutil.copytree(started, folder, symlinks=True)
        target = reader_folder(folder, root=None, grace_s=0.0, keep=0)
        done = not _killed_at(count, lambda target=target: pull(store, 2, target))  # type: ignore[misc]
        now = target.current()
        assert now is not None
        assert content_digest_of(now.folder) == wanted[now.release]
        finished = pull(store, 2, target)
        assert content_digest_of(finished.folder.resolve()) == wanted[2]
        assert [os.listdir(folder / part) for part in ("releases", "partial")] == [[finished_name(target)], []]
        assert len([n for n in os.listdir(folder / "activations") if not n.startswith(".")]) == 1
        shutil.rmtree(folder)
        count += 1
    assert count > 30


def finished_name(target: PulledFolder) -> str:
    now = target.current()
    assert now is not None
    return now.name
