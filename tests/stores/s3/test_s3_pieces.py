"""Files whose pieces were hashed when they were assembled: the server compares them, and the publisher does not hash again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_file
from enginepress.pieces import Pieces
from enginepress.stores.s3 import S3Store
from tests.faulty_http import Fault
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, hashed_before, keys, leftovers, publish, small_parts

PIECE = 1 << 20
LARGE = "engine/part0.bin"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a file of three pieces and a byte."""
    small_parts(monkeypatch, PIECE)
    return make_source(tmp_path / "source", weights=bytes(range(256)) * (3 << 12), files=1)


@pytest.fixture
def large(source: Path) -> Path:
    return source / MODEL / "0" / LARGE


def test_the_server_compares_each_piece_with_what_was_assembled(
    store: S3Store, source: Path, large: Path, server: S3Server
) -> None:
    known = hashed_before(source)
    before = len(server.requests)
    release = publish(store, source, **known)
    parts = [r for r in server.requests[before:] if "partNumber" in r.query and r.method == "PUT"]
    assert {r.headers["x-amz-content-sha256"] for r in parts} == set(known["pieces"][large].sha256)
    assert {e.path: e.sha256 for e in release.files}[f"{MODEL}/1/{LARGE}"] == hash_file(large)
    assert store.verify(MODEL, 1) == []


def test_the_publisher_does_not_hash_such_a_file_again(store: S3Store, source: Path, large: Path) -> None:
    known = hashed_before(source)
    known["expected"][large] = key("what nobody computes")
    release = publish(store, source, **known)
    assert {e.path: e.sha256 for e in release.files}[f"{MODEL}/1/{LARGE}"] == key("what nobody computes")
    assert [str(d) for d in store.verify(MODEL, 1)] == [f"{MODEL}/1/{LARGE} is not what was published"]


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (_flip(7), f"{PIECE} bytes from 0 on are others"),
        (_flip(2 * PIECE - 1), f"{PIECE} bytes from {PIECE} on are others"),
        (_flip(3 * PIECE), f"1 bytes from {3 * PIECE} on are others"),
        (lambda data: data[:-1], "its sha256 is"),
        (lambda data: data + b"more", f"5 bytes from {3 * PIECE} on are others"),
        (lambda data: data + bytes(PIECE), "its sha256 is"),
    ],
    ids=["first piece", "second piece", "last piece", "a piece less", "longer", "a piece more"],
)
def test_a_file_that_was_changed_since_is_refused_and_nothing_of_it_appears(
    store: S3Store, source: Path, large: Path, server: S3Server, change: Callable[[bytes], bytes], how: str
) -> None:
    known, right = hashed_before(source), large.read_bytes()
    large.write_bytes(change(right))
    with pytest.raises(StoreError, match=f"was changed since it was checked: {how}") as caught:
        publish(store, source, **known)
    assert caught.value.where == str(large)
    assert "--force" in str(caught.value.fix)
    assert store.numbers(MODEL) == []
    assert not [k for k in keys(server) if k.endswith(LARGE)]
    assert not server.uploads, "what was sent of a changed file is of no use to anybody"
    large.write_bytes(right)
    publish(store, source, **known)
    assert store.verify(MODEL, 1) == []
    assert leftovers(server) == []


def test_a_file_that_shrinks_while_it_is_sent_is_refused(
    store: S3Store, source: Path, large: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashed_before(source)
    begin = store._client.begin

    def shrink(*arguments: Any, **more: Any) -> str:
        large.write_bytes(large.read_bytes()[: 2 * PIECE])
        return begin(*arguments, **more)

    monkeypatch.setattr(store._client, "begin", shrink)
    with pytest.raises(StoreError, match=rf"it had {3 * PIECE + 1} bytes, and now it has {2 * PIECE}"):
        publish(store, source, **known)
    assert store.numbers(MODEL) == []
    assert not server.uploads


@pytest.mark.parametrize("checksum", ["md5", "sha256", "crc32"])
def test_where_the_server_compares_something_else_the_file_is_hashed_as_it_is_sent(
    server: S3Server, source: Path, large: Path, checksum: Any
) -> None:
    store = a_store(checksum=checksum)
    assert store.guarantees.digest == checksum
    known = hashed_before(source)
    known["expected"][large] = key("another")
    with pytest.raises(StoreError, match=f"its sha256 is {hash_file(large)}, not {key('another')}"):
        publish(store, source, **known)
    assert store.numbers(MODEL) == []


@pytest.mark.parametrize("others", [Pieces(PIECE // 2, (key("a"),) * 7), Pieces(PIECE, (key("a"),) * 3)], ids=["size", "count"])
def test_pieces_that_are_not_the_parts_are_of_no_use_and_the_file_is_hashed(
    store: S3Store, source: Path, large: Path, others: Pieces
) -> None:
    known = hashed_before(source)
    publish(store, source, expected=known["expected"], pieces={large: others})
    assert store.verify(MODEL, 1) == []
    with pytest.raises(StoreError, match="its sha256 is"):
        publish(store, source, expected={large: key("another")}, pieces={large: others})


def test_a_refusal_of_the_server_is_told_as_it_is_where_the_file_is_what_it_was(
    store: S3Store, source: Path, server: S3Server
) -> None:
    known = hashed_before(source)
    assert store.guarantees.digest == "payload"
    refusal = b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>"
    server.faults.append(Fault(f"PUT *{LARGE}", status=400, body=refusal))
    with pytest.raises(StoreError, match="XAmzContentSHA256Mismatch"):
        publish(store, source, **known)
    assert server.uploads, "the next attempt goes on with it"
    publish(store, source, **known)
    assert store.verify(MODEL, 1) == []
    assert leftovers(server) == []


def test_a_part_that_is_there_already_is_compared_too_before_it_is_kept(
    store: S3Store, source: Path, large: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that knows no pieces sends parts of a changed file, and is killed before it has hashed the whole."""
    known, right = hashed_before(source), large.read_bytes()
    large.write_bytes(_flip(7)(right))
    victim = a_store()
    put_part = victim._client.put_part

    def first_only(name: str, upload: str, number: int, *arguments: Any, **more: Any) -> str:
        if number > 1:
            raise StoreError("killed")
        return put_part(name, upload, number, *arguments, **more)

    monkeypatch.setattr(victim._client, "put_part", first_only)
    with pytest.raises(StoreError, match="killed"):
        publish(victim, source, expected=known["expected"])
    assert [len(upload.parts) for upload in server.uploads.values()] == [1]
    with pytest.raises(StoreError, match=f"was changed since it was checked: {PIECE} bytes from 0 on are others"):
        publish(store, source, **known)
    assert store.numbers(MODEL) == []
    assert not server.uploads
    large.write_bytes(right)
    publish(store, source, **known)
    assert store.verify(MODEL, 1) == []
    assert leftovers(server) == []
