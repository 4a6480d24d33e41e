"""Servers differ: what each guarantees is seen by asking it, and what it does not is made up for, or demanded of the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.recipe import Recipe
from enginepress.steps.resolve import check_stores
from enginepress.stores.s3.digests import digest_parameters
from enginepress.stores.s3.probe import Guarantees, guarantees_of
from tests.faulty_http import Request
from tests.s3_server import S3Server
from tests.s3_server.swift import VARIABLE, SwiftServer, installed
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, hashed_before, keys, leftovers, promote, publish, refuses_what_was_changed


def test_a_server_that_keeps_all_promises_is_asked_once_for_all(server: S3Server, source: Path) -> None:
    store = a_store()
    assert store.guarantees == Guarantees("atomic", "quoted", "payload", etag_md5=True, copies=True, copy_match="quoted")
    assert keys(server) == {"models/server.json"}
    before = len(server.requests)
    assert a_store().guarantees == store.guarantees
    assert len(server.requests) == before + 1
    words = store.guarantees.in_words()
    assert words["create"] == "release numbers: allotted atomically by the server"


def test_a_note_for_another_server_or_of_long_ago_is_not_believed(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    store = a_store()
    assert store.guarantees.digest == "payload"
    server.compares.discard("x-amz-content-sha256")
    assert a_store().guarantees.digest == "payload"
    assert guarantees_of(store._client, "models/", "auto", again=True).digest == "md5"
    server.compares.discard("content-md5")
    assert a_store(checksum="sha256").guarantees.digest == "sha256"
    assert guarantees_of(store._client, "models/", "auto", again=True).digest == "sha256"
    server.compares.clear()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    assert a_store().guarantees.digest == "none"


def test_a_server_that_overwrites_needs_a_single_writer(server: S3Server, source: Path) -> None:
    server.conditions = False
    store = a_store()
    assert (store.guarantees.create, store.guarantees.match, store.guarantees.copy_match) == ("ignored", "none", "none")
    with pytest.raises(StoreError, match="overwrites an object that is there") as caught:
        publish(store, source)
    assert "single_writer: true" in str(caught.value.fix)
    single = a_store(single_writer=True)
    assert [publish(single, source).release for _ in range(2)] == [1, 2]
    with pytest.raises(StoreError, match="does not compare") as caught:
        promote(store, "production", 1)
    assert "single_writer: true" in str(caught.value.fix)
    promote(single, "production", 1)
    promote(single, "production", 2, expect=1)
    assert [m.release for m in single.history(MODEL, "production")] == [1, 2]
    assert leftovers(server) == []


def test_a_second_writer_where_there_may_be_one_only_is_noticed(server: S3Server, source: Path) -> None:
    server.conditions = False
    single = a_store(single_writer=True)
    publish(single, source)
    real = single._client.put

    def put(at: str, *arguments: Any, **more: Any) -> str:
        etag = real(at, *arguments, **more)
        if at.endswith("/releases/2.json"):
            other = server.buckets["bucket"].current(f"models/{MODEL}/releases/1.json")
            assert other is not None
            server.add("bucket", {at: other.data})
        return etag

    single._client.put = put  # type: ignore[method-assign]
    assert publish(single, source).release == 3, "the other one has number 2"
    assert a_store().verify(MODEL, 3) == []


def test_a_server_that_compares_no_digest_is_read_back(server: S3Server, source: Path) -> None:
    server.compares.clear()
    store = a_store()
    assert store.guarantees.digest == "none"
    before = len(server.requests)
    publish(store, source)
    read = [r.path for r in server.requests[before:] if r.method == "GET" and "/repositories/" in r.path]
    assert len(read) == len(store.manifest(MODEL, 1).files)
    assert "read back" in store.guarantees.in_words()["digest"]


@pytest.mark.parametrize("paranoid", [False, True])
def test_paranoid_reads_every_file_back(server: S3Server, source: Path, paranoid: bool) -> None:
    store = a_store(paranoid=paranoid)

    def damage(seen: Request) -> None:
        """A disk that flips a bit behind the server's back."""
        bucket = server.buckets["bucket"]
        for name, versions in bucket.objects.items():
            if name.endswith("part1.bin") and versions[-1] is not None:
                stored = versions[-1]
                versions[-1] = type(stored)(b"x" + stored.data[1:], stored.etag, stored.version)

    assert store.guarantees.digest == "payload"
    server.after_request = damage  # type: ignore[method-assign]
    if paranoid:
        with pytest.raises(StoreError, match="the server has other bytes than were sent"):
            publish(store, source)
        assert store.numbers(MODEL) == []
    else:
        publish(store, source)
        assert [str(d) for d in store.verify(MODEL, 1)] == ["tiny/1/engine/part1.bin is not what was published"]


def test_a_payload_that_is_changed_on_the_way_is_refused(server: S3Server) -> None:
    client = a_store()._client
    with client.damaging("models/small", b"wrong"), pytest.raises(StoreError, match="XAmzContentSHA256Mismatch"):
        client.put("models/small", b"right", digest=digest_parameters("payload", b"right"))
    assert "models/small" not in keys(server)
    client.put("models/small", b"right", digest=digest_parameters("payload", b"right"))
    assert client.get("models/small")[0] == b"right"


def test_where_payloads_are_compared_each_is_signed_and_no_md5_goes_with_it(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from enginepress.stores.s3 import sending

    monkeypatch.setattr(sending, "PART_BYTES", 1 << 20)
    source = make_source(tmp_path / "heavy", weights=bytes(3 << 20), files=1)
    store = a_store()
    assert store.guarantees.digest == "payload"
    before = len(server.requests)
    publish(store, source)
    bodies = [r for r in server.requests[before:] if r.method == "PUT" and "/repositories/" in r.path]
    assert len([r for r in bodies if "partNumber" in r.query]) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", r.headers["x-amz-content-sha256"]) for r in bodies)
    assert not any("content-md5" in r.headers for r in bodies)
    assert store.verify(MODEL, 1) == []


@pytest.mark.parametrize("kind", ["sha256", "crc32"])
def test_other_digests_go_with_every_part(server: S3Server, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginepress.stores.s3 import sending

    monkeypatch.setattr(sending, "PART_BYTES", 1 << 20)
    source = make_source(tmp_path / "heavy", weights=bytes(3 << 20), files=1)
    store = a_store(checksum=kind)
    assert store.guarantees.digest == kind
    before = len(server.requests)
    publish(store, source)
    bodies = [r for r in server.requests[before:] if r.method == "PUT" and "/repositories/" in r.path]
    assert len([r for r in bodies if "partNumber" in r.query]) == 4
    assert all(f"x-amz-checksum-{kind}" in r.headers for r in bodies)
    assert store.verify(MODEL, 1) == []


def test_a_server_that_cannot_copy_is_sent_everything_again(server: S3Server, tmp_path: Path) -> None:
    server.copies = False
    source = make_source(tmp_path / "heavy", weights=bytes(2 << 20), files=1)
    store = a_store()
    assert not store.guarantees.copies
    publish(store, source)
    publish(store, source)
    assert store.verify(MODEL, 2) == []
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: publish(a_store(), source, key(f"build {n}")).release, range(4)))
    assert sorted(numbers) == [3, 4, 5, 6]
    assert leftovers(server) == []


def test_large_unchanged_files_are_copied_in_parts(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginepress.stores.s3 import sending

    monkeypatch.setattr(sending, "COPY_PART_BYTES", 1 << 20)
    source = make_source(tmp_path / "heavy", weights=bytes(3 << 20), files=2)
    store = a_store()
    publish(store, source)
    before = len(server.requests)
    publish(store, source)
    copied = [r for r in server.requests[before:] if "x-amz-copy-source-range" in r.headers]
    assert len(copied) == 8
    assert store.verify(MODEL, 2) == []
    assert leftovers(server) == []


# OpenStack Swift ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    place = installed()
    if place is None:
        pytest.skip(f"Swift is not installed (pip install swift), and {VARIABLE} names no environment that has it")
    with SwiftServer(place, tmp_path_factory.mktemp("swift")) as running:
        yield running


def test_openstack_swift_publishes_promotes_and_is_read(
    swift: SwiftServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from botocore.config import Config

    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    boto3.session.Session().client("s3", region_name="us-east-1", config=config).create_bucket(Bucket="bucket")
    source = make_source(tmp_path / "source", weights=bytes(range(256)) * (20 << 12), files=2)
    with pytest.raises(StoreError, match="lets two conditional writes") as caught:
        publish(a_store(), source)
    assert "single_writer: true" in str(caught.value.fix)

    store = a_store(single_writer=True)
    assert (store.guarantees.create, store.guarantees.match, store.guarantees.digest) == ("racy", "none", "payload")
    known = hashed_before(source)
    assert [publish(store, source, key(f"build {n}"), **known).release for n in range(2)] == [1, 2]
    assert store.verify(MODEL, 2) == [] == store.verify(MODEL, 2, contents=False)
    refuses_what_was_changed(source, "engine/part1.bin")
    assert store.find(MODEL, key("build 0")) == store.manifest(MODEL, 1)
    promote(store, "production", 1)
    promote(store, "production", 2, expect=1)
    assert (store.channels(MODEL), store.previous(MODEL, "production")) == ({"production": 2}, 1)
    store.write_record(MODEL, 2, "checks", {"passed": True})
    assert store.records(MODEL, 2) == {"checks": {"passed": True}}
    store.fetch(MODEL, 2, tmp_path / "out")
    assert hash_folder(tmp_path / "out") == store.manifest(MODEL, 2).files
    store.remove(MODEL, 1)
    assert store.numbers(MODEL) == [2]
    assert not store._client.uploads("")
    assert not store._client.listing(f"models/{MODEL}/publishers/")


def test_what_every_publish_would_be_refused_for_is_told_before_anything_is_built(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)

    def recipe(**store: Any) -> Recipe:
        fields = {
            "name": MODEL,
            "source": "file:///any",
            "stores": [f"file://{tmp_path}", {"url": "s3://bucket/models", **store}],
        }
        return Recipe.model_validate(fields)

    server.conditions = False
    with pytest.raises(StoreError, match="overwrites an object that is there") as caught:
        check_stores(recipe())
    assert "single_writer: true" in str(caught.value.fix)
    check_stores(recipe(single_writer=True))
    with pytest.raises(StoreError, match="no such bucket"):
        check_stores(recipe(url="s3://buckett/models"))


def test_a_store_that_took_objects_before_and_takes_none_today_is_told_before_anything_is_built(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    recipe = Recipe.model_validate({"name": MODEL, "source": "file:///any", "stores": ["s3://bucket/models"]})
    check_stores(recipe)
    assert set(server.buckets["bucket"].objects) == {"models/server.json"}
    server.quota = 0
    with pytest.raises(StoreError, match=r"\.probe-"):
        check_stores(recipe)
