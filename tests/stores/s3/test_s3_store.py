"""What every store promises, on S3: releases whole or not at all, numbers once, channels by compare-and-set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError
from enginepress.files import FileEntry, hash_folder
from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.recipe import Store as StoreSettings
from enginepress.steps.doctor_stores import examine_stores
from enginepress.steps.finding import Finding
from enginepress.stores.open import open_store
from enginepress.stores.s3 import S3Store, sending
from enginepress.workspace import Workspace
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key, make_source, manifest, placed
from tests.stores.s3.stores import a_store, keys, leftovers, promote, publish


def test_what_was_published_is_found_verified_and_fetched(store: S3Store, source: Path, tmp_path: Path, server: S3Server) -> None:
    published = publish(store, source)
    assert (published.release, store.models(), store.numbers(MODEL)) == (1, [MODEL], [1])
    assert store.manifest(MODEL, 1) == published
    assert store.find(MODEL, key("a")) == published == store.find_content(MODEL, published.content_digest)
    assert store.find(MODEL, key("b")) is None
    assert store.verify(MODEL, 1) == [] == store.verify(MODEL, 1, contents=False)
    assert store.repository(MODEL, 1) is None
    assert store.fetch(MODEL, 1, tmp_path / "out") == published
    assert hash_folder(tmp_path / "out") == published.files
    assert store.location(MODEL, 1).startswith(f"s3://bucket/models/{MODEL}/repositories/1-")
    assert leftovers(server) == []


def test_releases_get_the_next_number_and_a_removed_one_is_never_given_again(
    store: S3Store, source: Path, server: S3Server
) -> None:
    assert [publish(store, source).release for _ in range(3)] == [1, 2, 3]
    store.write_record(MODEL, 3, "checks", {"passed": True})
    store.remove(MODEL, 3)
    assert store.numbers(MODEL) == [1, 2]
    with pytest.raises(StoreError, match="has no release 3"):
        store.manifest(MODEL, 3)
    assert publish(store, source).release == 4
    assert leftovers(server) == []
    assert not [k for k in keys(server) if "/records/" in k]
    promote(store, "production", 4)
    with pytest.raises(StoreError, match="is on production"):
        store.remove(MODEL, 4)


def test_publishers_at_the_same_time_get_different_numbers_and_whole_releases(
    server: S3Server, source: Path, tmp_path: Path
) -> None:
    assert a_store().guarantees.create == "atomic"
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: publish(a_store(), source, key(f"build {n}")).release, range(8)))
    assert sorted(numbers) == list(range(1, 9))
    store = a_store()
    assert all(store.verify(MODEL, n) == [] for n in numbers)
    assert leftovers(server) == []


def test_another_store_takes_the_same_number_or_refuses(store: S3Store, source: Path) -> None:
    follower = a_store(prefix="backup")
    publish(store, source)
    second = publish(store, source, key("b"))
    more: dict[str, Any] = {"number": 2, "primary": store.url}
    follower.publish(MODEL, place=placed(source), describe=lambda _n, _files: second, **more)
    assert (follower.numbers(MODEL), follower.manifest(MODEL, 2)) == ([2], second)
    with pytest.raises(StoreError, match="has, or had, another release 2"):
        follower.publish(MODEL, place=placed(source), describe=lambda _n, _files: second, **more)
    with pytest.raises(StoreError, match="follows the store s3://bucket/models, which allots"):
        publish(follower, source)


def test_a_release_that_was_removed_from_another_store_is_told_as_such_and_comes_back_as_the_message_says(
    store: S3Store, source: Path, server: S3Server
) -> None:
    follower, first = a_store(prefix="backup"), publish(store, source)

    def follow() -> Manifest:
        return follower.publish(MODEL, place=placed(source), describe=lambda _n, _files: first, number=1, primary=store.url)

    follow()
    follower.remove(MODEL, 1)
    with pytest.raises(StoreError, match="release 1 of tiny was removed there, and its number is not given again") as caught:
        follow()
    assert "remove this one object" in (caught.value.fix or "")
    del server.buckets["bucket"].objects[(caught.value.where or "").removeprefix("s3://bucket/")]
    assert follow() == first
    assert follower.verify(MODEL, 1) == []


@pytest.mark.parametrize("name", ["engine/large.bin", "model.py"])
def test_a_file_that_was_changed_since_it_was_checked_is_refused_and_nothing_of_it_appears(
    store: S3Store, source: Path, server: S3Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PART_BYTES", 1 << 20)
    (source / MODEL / "0" / "engine" / "large.bin").write_bytes(bytes(3 << 20))
    with pytest.raises(StoreError, match="was changed since it was checked"):
        publish(store, source, expected={source / MODEL / "0" / name: key("another")})
    assert store.numbers(MODEL) == []
    assert not [k for k in keys(server) if k.endswith(name)]
    publish(store, source)
    assert leftovers(server) == []


def test_a_manifest_of_other_files_than_arrived_is_refused(store: S3Store, source: Path, server: S3Server) -> None:
    def describe(number: int, files: tuple[FileEntry, ...]) -> Any:
        return manifest(number, files[1:], key("a"))

    with pytest.raises(StoreError, match="not what the manifest says"):
        store.publish(MODEL, place=placed(source), describe=describe)
    assert store.numbers(MODEL) == []
    assert leftovers(server) == []


def test_unchanged_files_are_copied_by_the_server(store: S3Store, tmp_path: Path, server: S3Server) -> None:
    source = make_source(tmp_path / "heavy", weights=bytes(3 << 20))
    publish(store, source)
    before = len(server.requests)
    publish(store, source, key("b"))
    sent = sum(int(r.headers.get("content-length") or 0) for r in server.requests[before:] if r.method == "PUT")
    assert sent < (9 << 20) // 100
    assert store.verify(MODEL, 2) == []


def test_a_file_that_was_swapped_in_the_store_is_seen_at_once_and_copied_nowhere(
    store: S3Store, tmp_path: Path, server: S3Server
) -> None:
    source = make_source(tmp_path / "heavy", weights=bytes(2 << 20), files=1)
    publish(store, source)
    swapped = next(k for k in keys(server) if k.endswith("part0.bin"))
    server.add("bucket", {swapped: bytes(2 << 20) + b"x"})
    for contents in (False, True):
        assert [str(d) for d in store.verify(MODEL, 1, contents=contents)] == [
            "tiny/1/engine/part0.bin is not what was published"
        ]
    with pytest.raises(StoreError, match="is damaged"):
        promote(store, "production", 1)
    with pytest.raises(StoreError, match="is not what its source published"):
        store.fetch(MODEL, 1, tmp_path / "out")
    publish(store, source)
    assert store.verify(MODEL, 2) == []


def test_missing_and_foreign_files_are_seen(store: S3Store, source: Path, server: S3Server) -> None:
    publish(store, source)
    folder = store.location(MODEL, 1).removeprefix("s3://bucket/")
    del server.buckets["bucket"].objects[f"{folder}/tiny/1/model.py"]
    server.add("bucket", {f"{folder}/tiny/1/more.py": b"x"})
    found = [str(d) for d in store.verify(MODEL, 1, contents=False)]
    assert found == ["tiny/1/model.py is missing", "tiny/1/more.py does not belong to the release"]


def test_a_manifest_that_was_edited_is_refused(store: S3Store, source: Path, server: S3Server) -> None:
    publish(store, source)
    text = server.buckets["bucket"].current(f"models/{MODEL}/releases/1.json")
    assert text is not None
    server.add("bucket", {f"models/{MODEL}/releases/1.json": text.data.replace(b"triton", b"tritop")})
    with pytest.raises(StoreError, match="was changed after it was written"):
        store.manifest(MODEL, 1)


def test_a_copy_of_a_store_that_lost_metadata_is_still_read(
    store: S3Store, source: Path, server: S3Server, tmp_path: Path
) -> None:
    publish(store, source)
    copied = f"models/{MODEL}/releases/1.json"
    server.add("bucket", {copied: server.buckets["bucket"].current(copied).data})  # type: ignore[union-attr]
    store.fetch(MODEL, 1, tmp_path / "out")
    assert store.verify(MODEL, 1) == []


def test_records_come_in_the_order_in_which_they_were_written(store: S3Store, source: Path) -> None:
    publish(store, source)
    for name in ("checks-b", "checks-a", "registration", "checks-b"):
        store.write_record(MODEL, 1, name, {"name": name})
    assert list(store.records(MODEL, 1)) == ["checks-a", "registration", "checks-b"]
    assert store.read_record(MODEL, 1, "registration") == {"name": "registration"}
    assert store.read_record(MODEL, 1, "none") is None
    with pytest.raises(StoreError, match="has no release 2"):
        store.write_record(MODEL, 2, "checks", {})


# Fetching -------------------------------------------------------------------------------------------------------------


def test_a_fetch_keeps_what_is_whole_and_fetches_the_rest(store: S3Store, source: Path, tmp_path: Path, server: S3Server) -> None:
    publish(store, source)
    target = tmp_path / "out"
    store.fetch(MODEL, 1, target)
    kept = target / MODEL / "1" / "engine" / "part0.bin"
    stamp = kept.stat().st_mtime_ns
    (target / MODEL / "1" / "engine" / "part1.bin").write_bytes(b"damaged\1")
    (target / MODEL / "1" / "model.py").unlink()
    before, counted = len(server.requests), []
    store.fetch(MODEL, 1, target, progress=counted.append)
    assert hash_folder(target) == store.manifest(MODEL, 1).files
    assert kept.stat().st_mtime_ns == stamp
    assert sum(counted) == store.manifest(MODEL, 1).size
    fetched = {r.path.rpartition("/")[2] for r in server.requests[before:] if "/repositories/" in r.path}
    assert fetched == {"part1.bin", "model.py"}


def test_a_fetch_into_a_folder_with_something_else_is_refused(store: S3Store, source: Path, tmp_path: Path) -> None:
    publish(store, source)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is not a file of release 1"):
        store.fetch(MODEL, 1, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


# Channels -------------------------------------------------------------------------------------------------------------


def test_channels_move_with_a_history_and_only_from_where_they_are_expected(store: S3Store, source: Path) -> None:
    for _ in range(3):
        publish(store, source)
    assert (store.channel(MODEL, "production"), store.channels(MODEL)) == (None, {})
    promote(store, "production", 1, expect=None)
    promote(store, "production", 2, who="ana", why="faster")
    with pytest.raises(StoreError, match="is on release 2, not on release 1: somebody moved it meanwhile"):
        promote(store, "production", 3, expect=1)
    with pytest.raises(StoreError, match="is on release 2, not on no release"):
        promote(store, "production", 3, expect=None)
    promote(store, "candidate", 3)
    assert store.channels(MODEL) == {"candidate": 3, "production": 2}
    assert store.previous(MODEL, "production") == 1
    last = store.history(MODEL, "production")[-1]
    assert (last.release, last.previous, last.who, last.why, last.back) == (2, 1, "ana", "faster", False)
    promote(store, "production", store.previous(MODEL, "production"), back=True)
    with pytest.raises(StoreError, match="no earlier release"):
        store.previous(MODEL, "production")


def test_movers_at_the_same_time_come_one_after_the_other_and_none_is_lost(server: S3Server, source: Path) -> None:
    store = a_store()
    for _ in range(8):
        publish(store, source)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: promote(a_store(), "production", n, who=f"mover {n}"), range(1, 9)))
    moves = store.history(MODEL, "production")
    assert sorted(m.release for m in moves) == list(range(1, 9))
    assert [m.previous for m in moves] == [None, *[m.release for m in moves[:-1]]]
    assert store.channel(MODEL, "production") == moves[-1].release


def test_a_long_history_is_put_apart_and_read_whole(store: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginepress.stores.s3 import channels

    monkeypatch.setattr(channels, "KEPT", 2)
    monkeypatch.setattr(channels, "MOST", 4)
    publish(store, source)
    publish(store, source)
    for number in range(14):
        promote(store, "production", 1 + number % 2, why=str(number))
    assert [m.why for m in store.history(MODEL, "production")] == [str(n) for n in range(14)]
    assert store.previous(MODEL, "production") == 1


def test_a_channel_that_names_a_release_that_is_gone_says_so(store: S3Store, source: Path, server: S3Server) -> None:
    publish(store, source)
    promote(store, "production", 1)
    server.add("bucket", {f"models/{MODEL}/releases/1.json": b""})
    with pytest.raises(StoreError, match="points to release 1, which is not in the store"):
        store.channel(MODEL, "production")
    server.add("bucket", {f"models/{MODEL}/channels/production.json": b"{}"})
    with pytest.raises(StoreError, match="is damaged"):
        store.channel(MODEL, "production")


def test_an_object_that_no_channel_may_be_called_after_is_a_stray_and_keeps_nobody_from_moving(
    store: S3Store, source: Path, server: S3Server
) -> None:
    publish(store, source)
    server.add("bucket", {f"models/{MODEL}/channels/Not one.json": b"{}"})
    promote(store, "production", 1)
    assert store.channels(MODEL) == {"production": 1}
    assert store.strays(MODEL) == ["channels/Not one.json"]


def test_files_that_are_lost_are_told_by_the_listing_alone(store: S3Store, source: Path, server: S3Server) -> None:
    publish(store, source)
    assert store.lost(MODEL, 1) == []
    folder = next(k for k in keys(server) if k.endswith("/tiny/1/model.py")).removesuffix("/tiny/1/model.py")
    server.add("bucket", {f"{folder}/tiny/1/model.py": b"", f"{folder}/tiny/1/foreign": b"x"})
    server.buckets["bucket"].objects.pop(f"{folder}/tiny/1/engine/part1.bin")
    assert [str(d) for d in store.lost(MODEL, 1)] == [
        "tiny/1/engine/part1.bin is missing",
        "tiny/1/model.py is not what was published",
    ]


def test_doctor_takes_a_channel_whose_release_is_gone_back_to_the_one_before(
    store: S3Store, source: Path, server: S3Server, tmp_path: Path
) -> None:
    """As two failures at once may leave it: the release was removed, and the move to it could not be undone."""
    for name in "abc":
        publish(store, source, key(name))
    for number in (1, 2, 3):
        promote(store, "production", number)
    server.add("bucket", {f"models/{MODEL}/releases/3.json": b""})
    recipe = Recipe.model_validate({"name": MODEL, "source": "file:///any", "stores": ["s3://bucket/models"]})

    def findings(*, repair: bool) -> list[Finding]:
        found = examine_stores(recipe, Workspace(tmp_path / "w"), repair)
        return [f for f in found if f.what.startswith("channel")]

    (found,) = findings(repair=False)
    assert found.status == "error"
    assert "points to release 3, which is not in the store" in found.message
    assert "goes back to release 2" in (found.fix or "")
    assert [(f.status, f.message) for f in findings(repair=True)] == [
        ("mended", "moved back to release 2, since release 3 is not in the store")
    ]
    assert store.channel(MODEL, "production") == 2
    last = store.history(MODEL, "production")[-1]
    assert (last.release, last.previous, last.back) == (2, 3, True)
    assert findings(repair=True) == []


def test_doctor_says_what_the_server_guarantees_and_warns_where_that_is_too_little(server: S3Server, tmp_path: Path) -> None:
    def findings(prefix: str, **settings: Any) -> list[tuple[str, str]]:
        stores = [{"url": f"s3://bucket/{prefix}", **settings}]
        recipe = Recipe.model_validate({"name": MODEL, "source": "file:///any", "stores": stores})
        return [
            (f.status, f.message)
            for f in examine_stores(recipe, Workspace(tmp_path / "w"), False)
            if "releases of" not in f.message
        ]

    ((status, said),) = findings("good")
    assert status == "ok"
    assert said.startswith(
        "release numbers: allotted atomically by the server; channels: compared and set by the server; digests:"
    )
    server.conditions = False
    ((status, said),) = findings("bad")
    assert status == "warning"
    assert "no run could publish there: s3://bucket/bad: this server overwrites an object that is there" in said
    ((status, said),) = findings("bad", single_writer=True)
    assert status == "ok"
    assert "single_writer must be true" in said


# The recipe -----------------------------------------------------------------------------------------------------------


def test_the_store_of_a_recipe_is_opened_with_its_settings(server: S3Server) -> None:
    settings = {"endpoint": server.url, "region": "eu-1", "single_writer": True, "paranoid": True, "checksum": "crc32"}
    store = open_store(StoreSettings.model_validate({"url": "s3://bucket/a/b", **settings}))
    assert isinstance(store, S3Store)
    assert (store.url, store.settings.single_writer, store.settings.paranoid) == ("s3://bucket/a/b", True, True)
    assert store.guarantees.digest == "crc32"


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "file:///srv/models", "endpoint": "http://127.0.0.1"},
        {"url": "s3://bucket/models", "mount": "/models"},
        {"url": "s3://b"},
        {"url": "s3://bucket//models"},
        {"url": "s3://bucket/models?x=1"},
        {"url": "s3://bucket", "checksum": "sha1"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"stores?|write it as|has no such thing|Input should be"):
        StoreSettings.model_validate(wrong)
