"""Ceph's object gateway, the commonest S3 server on premises: eight publishers and eight movers at once, processes each.

Installed it is started by the tests themselves (tests/s3_server/ceph.py); elsewhere they are skipped and say why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.files import hash_folder
from enginepress.stores.s3 import S3Store
from tests.s3_server.ceph import CephServer, why_not
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, hashed_before, promote, publish, refuses_what_was_changed

pytestmark = pytest.mark.ceph
AT_ONCE = 8


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephServer]:
    if (problem := why_not()) is not None:
        pytest.skip(problem)
    with CephServer(tmp_path_factory.mktemp("ceph")) as running:
        yield running


@pytest.fixture
def store(ceph: CephServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3Store:
    import boto3
    from botocore.config import Config

    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    boto3.session.Session().client("s3", region_name="us-east-1", config=config).create_bucket(Bucket="bucket")
    prefix = f"store{abs(hash(request.node.name)) % 10**8}"
    monkeypatch.setenv("ENGINEPRESS_TEST_PREFIX", prefix)
    return a_store(prefix=prefix)


def _all(*commands: list[str]) -> list[dict[str, Any]]:
    """What processes that were started together have printed."""
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.stores.s3.publish", *c], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for c in commands
    ]
    found = []
    for process in running:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err.decode()
        found.append(json.loads(out))
    return found


def test_it_guarantees_what_publishing_needs(store: S3Store) -> None:
    found = store.guarantees
    assert (found.create, found.digest, found.etag_md5, found.copies) == ("atomic", "payload", True, True)
    assert found.match in ("bare", "quoted"), "releases differ in how an ETag is written in If-Match"


def test_releases_large_and_small_are_published_copied_and_fetched(store: S3Store, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", weights=bytes(range(256)) * (150 << 10), files=2)
    known = hashed_before(source)
    assert [publish(store, source, key(f"build {n}"), **known).release for n in range(2)] == [1, 2]
    assert store.verify(MODEL, 2) == [] == store.verify(MODEL, 2, contents=False)
    refuses_what_was_changed(source, "engine/part1.bin")
    store.fetch(MODEL, 2, tmp_path / "out")
    assert hash_folder(tmp_path / "out") == store.manifest(MODEL, 2).files
    store.remove(MODEL, 1)
    assert (store.numbers(MODEL), store.find(MODEL, key("build 0"))) == ([2], None)
    _check_nothing_left(store)


def test_eight_publishers_at_once_get_eight_numbers_and_eight_whole_releases(store: S3Store, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", weights=b"w" * 300_000)
    assert store.guarantees.create == "atomic"
    found = _all(*([str(source), key(f"build {n}")] for n in range(AT_ONCE)))
    assert sorted(f["release"] for f in found) == list(range(1, AT_ONCE + 1))
    for number, one in enumerate(found):
        assert store.verify(MODEL, one["release"]) == []
        assert store.manifest(MODEL, one["release"]).build_key == key(f"build {number}")
    _check_nothing_left(store)


def test_eight_movers_at_once_come_one_after_the_other(store: S3Store, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    for number in range(AT_ONCE):
        publish(store, source, key(f"build {number}"))
    told = _all(*(["promote", "production", str(n)] for n in range(1, AT_ONCE + 1)))
    assert sorted(t["moved"] for t in told) == list(range(1, AT_ONCE + 1))
    moves = store.history(MODEL, "production")
    assert sorted(m.release for m in moves) == list(range(1, AT_ONCE + 1))
    assert [m.previous for m in moves] == [None, *[m.release for m in moves[:-1]]]
    assert store.channel(MODEL, "production") == moves[-1].release
    promote(store, "production", 1, expect=moves[-1].release)


def test_movers_and_removers_at_once_leave_a_channel_that_leads_to_a_whole_release(store: S3Store, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    for turn in range(3):
        numbers = [publish(store, source, key(f"build {turn} {n}")).release for n in range(AT_ONCE // 2)]
        movers, removers = ([[*verb, str(n)] for n in numbers] for verb in (["promote", "production"], ["remove"]))
        told = _all(*(command for pair in zip(movers, removers, strict=True) for command in pair))
        removed = {t["removed"] for t in told if "removed" in t}
        named = store.channel(MODEL, "production")  # raises if it dangles
        assert named not in removed
        assert removed.isdisjoint(store.numbers(MODEL))
        assert all(store.verify(MODEL, n) == [] for n in store.numbers(MODEL))
        store.sweep(MODEL)
        _check_nothing_left(store)


def _check_nothing_left(store: S3Store) -> None:
    keys = store._keys(MODEL)
    assert store._client.listing(keys.publishers) == []
    assert store._client.uploads(keys.base) == []
    named = {store._read(MODEL, n)[1] for n in store.numbers(MODEL)}
    assert set(store._client.folders(f"{keys.base}repositories/")) == named
