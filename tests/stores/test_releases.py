from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginepress.errors import RecipeError, StoreError, UsageError
from enginepress.files import FileEntry, hash_folder
from enginepress.locks import Lock
from enginepress.recipe import Store
from enginepress.repository import Placement
from enginepress.stores import layout
from enginepress.stores.filesystem import FileStore
from enginepress.stores.open import open_store
from tests.stores.parts import MODEL, key, make_source, manifest, placed, publish
from tests.stores.processes import run_parts

# What a release is ----------------------------------------------------------------------------------------------------


def test_a_release_holds_the_placed_files_and_a_manifest_of_exactly_them(store: FileStore, source: Path) -> None:
    published = publish(store, source)
    repository = store.repository(MODEL, 1)
    assert published.release == 1
    assert published.files == hash_folder(repository)
    assert (repository / "tiny/1/engine/part0.bin").read_bytes() == b"weights\x00"
    assert b"versions: [1]" in (repository / "tiny/config.pbtxt").read_bytes()
    assert store.manifest(MODEL, 1) == published
    assert store.verify(MODEL, 1) == []


def test_numbers_count_up_and_the_newest_of_equal_builds_is_found(store: FileStore, source: Path) -> None:
    for build_key in (key("a"), key("b"), key("a")):
        publish(store, source, build_key)
    assert store.numbers(MODEL) == [1, 2, 3]
    assert [m.release for m in store.releases(MODEL)] == [1, 2, 3]
    found = store.find(MODEL, key("a"))
    assert found is not None
    assert found.release == 3
    by_content = store.find_content(MODEL, manifest(1, (), key("b")).content_digest)
    assert by_content is not None
    assert by_content.release == 2
    assert store.find(MODEL, key("never")) is None


def test_what_would_refuse_every_publish_is_told_without_writing(
    store: FileStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.check_publishable(MODEL, allots=True)
    assert not store.root.exists()
    publish(store, source)
    store.check_publishable(MODEL, allots=True)

    releases = store.root / MODEL / "releases"
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != releases and allowed(path, mode))
    with pytest.raises(StoreError, match="writing to the store failed") as caught:
        store.check_publishable(MODEL, allots=True)
    assert str(releases) in str(caught.value)
    assert "right to write there" in str(caught.value.fix)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_may_not_be_written_is_told_before_a_publish(store: FileStore) -> None:
    store.root.mkdir()
    store.root.chmod(0o555)
    with pytest.raises(StoreError, match="writing to the store failed"):
        store.check_publishable(MODEL, allots=True)


def test_a_store_that_follows_another_one_is_refused_as_the_one_that_gives_the_numbers(store: FileStore, source: Path) -> None:
    publish(store, source, number=4, primary="file:///elsewhere")
    store.check_publishable(MODEL, allots=False)
    with pytest.raises(StoreError, match="follows the store file:///elsewhere"):
        store.check_publishable(MODEL, allots=True)


def test_a_store_that_is_not_there_yet_is_empty_and_not_made_by_looking(store: FileStore) -> None:
    assert store.numbers(MODEL) == []
    assert store.find(MODEL, key("a")) is None
    assert store.channels(MODEL) == {}
    assert store.channel(MODEL, "production") is None
    assert store.history(MODEL, "production") == []
    assert store.records(MODEL, 1) == {}
    assert not store.root.exists()


def test_a_number_is_not_given_again_after_its_release_was_deleted(store: FileStore, source: Path) -> None:
    for _ in range(3):
        publish(store, source)
    shutil.rmtree(store.root / MODEL / "releases/3")
    shutil.rmtree(store.root / MODEL / "releases/2")
    assert publish(store, source).release == 4


def test_released_files_are_read_only(store: FileStore, source: Path) -> None:
    publish(store, source)
    for path in (store.root / MODEL / "releases/1/repository").rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0


def test_progress_counts_every_copied_byte(store: FileStore, source: Path) -> None:
    seen: list[int] = []
    publish(store, source, progress=seen.append)
    assert sum(seen) == sum(p.stat().st_size for p in (source / MODEL / "0").rglob("*") if p.is_file())


def test_nothing_is_left_in_partial_after_publishing(store: FileStore, source: Path) -> None:
    publish(store, source)
    assert list((store.root / MODEL / ".partial").iterdir()) == []


def test_a_damaged_release_does_not_keep_others_from_being_found_or_published(store: FileStore, source: Path) -> None:
    for name in "abc":
        publish(store, source, key(name))
    path = store.root / MODEL / "releases/2/manifest.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"release": 2', '"release": 9'))
    shutil.rmtree(store.root / MODEL / "releases/3/repository")
    (store.root / MODEL / "releases/3/manifest.json").unlink()
    found = store.find(MODEL, key("a"))
    assert found is not None
    assert found.release == 1
    assert store.find(MODEL, key("d")) is None
    with pytest.raises(StoreError, match="was changed after it was written"):
        store.find(MODEL, key("b"))
    assert publish(store, source, key("d")).release == 4


def test_finding_among_five_hundred_releases_stays_quick(store: FileStore, source: Path) -> None:
    publish(store, source)
    for number in range(2, 501):
        folder = store.root / MODEL / "releases" / str(number)
        (folder / "repository").mkdir(parents=True)
        (folder / "manifest.json").write_text(manifest(number, store.manifest(MODEL, 1).files, key(f"k{number}")).to_text())
    start = time.perf_counter()
    assert store.find(MODEL, key("k499")) is not None
    hit = time.perf_counter() - start
    assert store.find(MODEL, key("never")) is None
    missed = time.perf_counter() - start - hit
    assert hit < 0.1
    assert missed < 2


# Several publishers ---------------------------------------------------------------------------------------------------


def test_eight_publishers_at_once_get_eight_different_whole_releases(store: FileStore, tmp_path: Path) -> None:
    workers = []
    for index in range(8):
        source = make_source(tmp_path / f"source{index}", weights=f"weights {index} ".encode() * 10_000)
        workers.append(run_parts("publish", str(store.root), str(source), key(f"k{index}")))
    numbers = [int(w.communicate(timeout=60)[0]) for w in workers]
    assert sorted(numbers) == store.numbers(MODEL) == list(range(1, 9))
    for index, number in enumerate(numbers):
        assert store.manifest(MODEL, number).build_key == key(f"k{index}")
        assert store.verify(MODEL, number) == []
        folder = store.repository(MODEL, number) / MODEL / str(number)
        assert (folder / "engine/part0.bin").read_bytes().startswith(f"weights {index} ".encode())
    assert list((store.root / MODEL / ".partial").iterdir()) == []


def test_who_comes_second_is_placed_again_and_its_files_are_moved_not_copied(store: FileStore, source: Path) -> None:
    copied: list[int] = []
    place = placed(source)
    asked: list[int] = []

    def overtaken(number: int) -> Placement:
        asked.append(number)
        if number == 1:
            publish(store, source, key("faster"))
        return place(number)

    published = store.publish(
        MODEL, place=overtaken, describe=lambda n, files: manifest(n, files, key("slower")), progress=copied.append
    )
    assert (published.release, asked) == (2, [1, 2])
    assert sum(copied) == sum(e.size for e in published.files if not e.path.endswith("config.pbtxt"))
    assert store.verify(MODEL, 2) == []
    assert b"versions: [2]" in (store.repository(MODEL, 2) / "tiny/config.pbtxt").read_bytes()


def test_a_number_whose_release_came_and_went_while_another_was_copied_is_not_given_again(store: FileStore, source: Path) -> None:
    place = placed(source)

    def overtaken(number: int) -> Placement:
        if number == 1:
            publish(store, source, key("faster"))
            store.remove(MODEL, 1)
        return place(number)

    published = store.publish(MODEL, place=overtaken, describe=lambda n, files: manifest(n, files, key("slower")))
    assert (published.release, store.numbers(MODEL)) == (2, [2])
    assert store.verify(MODEL, 2) == []


def test_a_store_that_follows_takes_the_given_number_or_refuses(store: FileStore, source: Path) -> None:
    assert publish(store, source, number=7, primary="file:///first").release == 7
    with pytest.raises(StoreError, match="another release 7"):
        publish(store, source, number=7)
    assert publish(store, source, number=5).release == 5
    with pytest.raises(StoreError, match="follows the store file:///first"):
        publish(store, source)
    assert store.numbers(MODEL) == [5, 7]


# Bytes that are not what they should be -------------------------------------------------------------------------------


def test_a_source_file_that_changed_since_it_was_checked_is_not_published(store: FileStore, source: Path) -> None:
    path = source / MODEL / "0/engine/part1.bin"
    expected = {p: e.sha256 for e in hash_folder(source) for p in [source / e.path]}
    path.write_bytes(b"weightS\x01")
    with pytest.raises(StoreError, match="was changed since it was checked") as caught:
        publish(store, source, expected=expected)
    assert caught.value.where == str(path)
    assert store.numbers(MODEL) == []


def test_a_release_that_does_not_match_the_given_manifest_is_not_published(store: FileStore, source: Path) -> None:
    first = publish(store, source)
    other = FileStore(store.root.with_name("other"))
    (source / MODEL / "0/engine/part1.bin").write_bytes(b"changed")
    with pytest.raises(StoreError, match=r"not what the manifest says: tiny/1/engine/part1\.bin"):
        other.publish(MODEL, place=placed(source), describe=lambda _n, _f: first, number=1)
    assert other.numbers(MODEL) == []
    assert list((other.root / MODEL / ".partial").iterdir()) == []


def test_a_manifest_for_another_number_is_refused(store: FileStore, source: Path) -> None:
    with pytest.raises(StoreError, match="is for release 9"):
        store.publish(MODEL, place=placed(source), describe=lambda _n, files: manifest(9, files, key("a")))


def test_verify_names_what_is_missing_changed_foreign_or_a_link(store: FileStore, source: Path, tmp_path: Path) -> None:
    publish(store, source)
    version = store.repository(MODEL, 1) / "tiny/1"
    (version / "engine/part0.bin").unlink()
    os.chmod(version / "engine/part1.bin", 0o644)
    (version / "engine/part1.bin").write_bytes(b"weightz\x01")
    (version / "engine/part2.bin").rename(tmp_path / "elsewhere")
    (version / "engine/part2.bin").symlink_to(tmp_path / "elsewhere")
    (version / "notes.txt").write_text("hello")
    (store.repository(MODEL, 1) / "another-model/1").mkdir(parents=True)
    assert [(d.path, d.problem) for d in store.verify(MODEL, 1)] == [
        ("another-model", "foreign"),
        ("tiny/1/engine/part0.bin", "missing"),
        ("tiny/1/engine/part1.bin", "changed"),
        ("tiny/1/engine/part2.bin", "link"),
        ("tiny/1/notes.txt", "foreign"),
    ]


# Damage and tricks ----------------------------------------------------------------------------------------------------


def test_a_release_folder_that_is_a_link_out_of_the_store_is_refused(store: FileStore, source: Path, tmp_path: Path) -> None:
    publish(store, source)
    shutil.move(store.root / MODEL / "releases/1", tmp_path / "outside")
    (store.root / MODEL / "releases/1").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="is a symbolic link"):
        store.manifest(MODEL, 1)
    with pytest.raises(StoreError, match="is a symbolic link"):
        store.write_record(MODEL, 1, "checks", {})
    assert publish(store, source, key("b")).release == 2


@pytest.mark.parametrize("part", ["releases/1/repository", "releases/1/manifest.json", "releases", ".partial", "model.json"])
def test_a_link_in_place_of_a_part_of_the_store_is_refused(store: FileStore, source: Path, tmp_path: Path, part: str) -> None:
    publish(store, source)
    path = store.root / MODEL / part
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    use = (lambda: store.manifest(MODEL, 1)) if part.startswith("releases/") else (lambda: publish(store, source))
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        use()
    assert caught.value.where == str(path)


def test_a_release_folder_copied_under_another_number_is_refused(store: FileStore, source: Path) -> None:
    publish(store, source)
    shutil.copytree(store.root / MODEL / "releases/1", store.root / MODEL / "releases/4")
    with pytest.raises(StoreError, match="is the manifest of release 1 of tiny"):
        store.manifest(MODEL, 4)


def test_a_release_that_is_not_there_is_named_with_those_that_are(store: FileStore, source: Path) -> None:
    publish(store, source)
    with pytest.raises(StoreError, match="has no release 9 of tiny") as caught:
        store.repository(MODEL, 9)
    assert caught.value.fix == "there are: 1"
    with pytest.raises(StoreError, match="has no release 9"):
        store.write_record(MODEL, 9, "checks", {})


def test_a_store_of_a_newer_layout_is_left_alone(store: FileStore, source: Path) -> None:
    publish(store, source)
    path = store.root / MODEL / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    for attempt in (lambda: publish(store, source), lambda: store.numbers(MODEL), lambda: store.find(MODEL, key("a"))):
        with pytest.raises(StoreError, match="layout 2, and this enginepress knows layout 1"):
            attempt()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "1"}', '{"format": 1, "model": "other", "last": 1, "primary": null}']
)
def test_a_damaged_model_json_says_how_it_is_mended_and_the_mending_works(store: FileStore, source: Path, text: str) -> None:
    publish(store, source)
    path = store.root / MODEL / "model.json"
    path.write_text(text)
    with pytest.raises(StoreError, match="is damaged") as caught:
        publish(store, source)
    assert "remove this one file" in (caught.value.fix or "")
    path.unlink()
    assert publish(store, source).release == 2


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "x" * 70, "a\n"])
def test_model_names_that_are_no_folder_names_are_refused(store: FileStore, name: str) -> None:
    with pytest.raises(UsageError):
        store.numbers(name)


def test_a_store_under_a_file_says_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        publish(FileStore(tmp_path / "file" / "store"), source)


def test_a_source_file_that_is_gone_is_named(store: FileStore, source: Path) -> None:
    place = placed(source)
    place_then_lose = place(1)
    (source / MODEL / "0/model.py").unlink()
    with pytest.raises(StoreError) as caught:
        store.publish(MODEL, place=lambda _n: place_then_lose, describe=lambda n, f: manifest(n, f, key("a")))
    assert caught.value.where is not None
    assert caught.value.where.endswith("model.py")
    assert store.numbers(MODEL) == []


# What killed publishers leave -----------------------------------------------------------------------------------------


def test_what_a_dead_publisher_left_is_removed_and_a_living_ones_is_not(store: FileStore, source: Path) -> None:
    publish(store, source)
    partial = store.root / MODEL / ".partial"
    (partial / "dead/1").mkdir(parents=True)
    code = (
        "import os, sys; from pathlib import Path; from enginepress.locks import Lock;"
        "Lock(Path(sys.argv[1]), about='dying').__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(partial / "dead.owner")], check=False)
    assert (partial / "dead.owner").exists()
    (partial / "ownerless").mkdir()
    with Lock(partial / "alive.owner", about="publishing slowly"):
        (partial / "alive").mkdir()
        publish(store, source)
        assert sorted(p.name for p in partial.iterdir()) == ["alive", "alive.owner"]
    publish(store, source)
    assert list(partial.iterdir()) == []


def test_a_publisher_elsewhere_counts_as_dead_when_its_heart_has_not_beaten_for_long(store: FileStore, source: Path) -> None:
    publish(store, source)
    partial = store.root / MODEL / ".partial"
    for name, age in (("fresh", 60.0), ("old", layout.ABANDONED_SECONDS + 60)):
        (partial / name).mkdir()
        owner = partial / f"{name}.owner"
        owner.write_text(json.dumps({"owner": name, "host": "elsewhere", "kernel": "another", "pid": 1, "start": "1", "beat": 3}))
        then = time.time() - age
        os.utime(owner, (then, then))
    publish(store, source)
    assert sorted(p.name for p in partial.iterdir()) == ["fresh", "fresh.owner"]


# Records --------------------------------------------------------------------------------------------------------------


def test_records_come_back_in_the_order_in_which_they_were_written(store: FileStore, source: Path) -> None:
    publish(store, source)
    for index, name in enumerate(["checks-b", "registration", "checks-a"]):
        store.write_record(MODEL, 1, name, {"index": index})
        path = store.root / MODEL / f"releases/1/records/{name}.json"
        os.utime(path, ns=(index, index))
    store.write_record(MODEL, 1, "checks-b", {"index": 9})
    assert list(store.records(MODEL, 1).items()) == [
        ("registration", {"index": 1}),
        ("checks-a", {"index": 2}),
        ("checks-b", {"index": 9}),
    ]
    assert store.read_record(MODEL, 1, "checks-b") == {"index": 9}
    assert store.read_record(MODEL, 1, "none") is None
    assert store.verify(MODEL, 1) == []


def test_a_damaged_record_is_named(store: FileStore, source: Path) -> None:
    publish(store, source)
    store.write_record(MODEL, 1, "checks", {"ok": True})
    path = store.root / MODEL / "releases/1/records/checks.json"
    path.write_text('{"ok": tr')
    with pytest.raises(StoreError, match="is damaged") as caught:
        store.records(MODEL, 1)
    assert caught.value.where == str(path)


# Opening --------------------------------------------------------------------------------------------------------------


def test_a_store_is_opened_from_a_recipe(tmp_path: Path) -> None:
    store = open_store(Store(url=f"file://{tmp_path}/my models", mount="/srv/models"))
    assert store.root == tmp_path / "my models"
    assert store.url == f"file://{tmp_path}/my models"
    assert store.mount == "/srv/models"


@pytest.mark.parametrize(("url", "problem"), [("file://relative", "not an absolute path")])
def test_stores_that_cannot_be_opened_say_why(url: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        open_store(Store(url=url))


def test_files_that_no_placement_may_name_are_refused(store: FileStore, source: Path) -> None:
    from enginepress.errors import UnsafePathError

    def describe(number: int, files: tuple[FileEntry, ...]) -> object:
        return manifest(number, files, key("a"))

    for path in ("../../../../escaped", "/tmp/escaped"):
        with pytest.raises(UnsafePathError):
            store.publish(MODEL, place=lambda n, p=path: Placement(n, {p: b"x"}, {}), describe=describe)  # type: ignore[misc,arg-type]
    assert store.numbers(MODEL) == []
