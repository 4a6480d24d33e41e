"""A faulty S3 server: always right, or clearly failed, and the next publish puts everything in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.stores.s3 import sending
from tests.faulty_http import Fault
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, hashed_before, keys, leftovers, promote, publish, small_parts

SCHEDULES = 300
CODE = "<Error><Code>{0}</Code><Message>{0}</Message></Error>"


def _error(status: int, code: str, *, times: int = 1, pattern: str = "*") -> Fault:
    return Fault(pattern, status=status, body=CODE.format(code).encode(), times=times)


def _faults(dice: random.Random) -> list[Fault]:
    method = dice.choice(["PUT *", "PUT *", "POST *", "GET *", "DELETE *", "* models/*/repositories/*", "* models/*/releases/*"])
    kinds = [
        lambda: _error(500, "InternalError", pattern=method),
        lambda: _error(503, "SlowDown", times=dice.randrange(1, 5), pattern=method),
        lambda: _error(503, "ServiceUnavailable", times=dice.randrange(1, 9), pattern=method),
        lambda: Fault(method, reset=True, times=dice.randrange(1, 4)),
        lambda: Fault(method, lost=True, times=dice.randrange(1, 4)),
        lambda: Fault("PUT models/*/releases/*", lost=True, times=dice.randrange(1, 3)),
        lambda: Fault("*/repositories/*.bin", cut_after=dice.randrange(90_000)),
        lambda: Fault("*/repositories/*.bin", corrupt_at=dice.randrange(90_000)),
        lambda: Fault("*/repositories/*.bin", short_by=dice.randrange(1, 90_000)),
        lambda: _error(403, "AccessDenied", pattern=method),
        lambda: _error(403, "QuotaExceeded", pattern="PUT *"),
        lambda: _error(404, "NoSuchBucket", pattern=method),
        lambda: _error(403, "RequestTimeTooSkewed", pattern=method),
        lambda: _error(409, "OperationAborted", pattern="PUT models/*/releases/*"),
        lambda: Fault(method, delay=dice.random() / 50),
    ]
    return [dice.choice(kinds)() for _ in range(dice.randrange(1, 8))]


def _survives(server: S3Server, source: Path, folder: Path, seed: int) -> str:
    """What became of a publish, a promotion and a fetch under faults."""
    dice = random.Random(seed)
    store = a_store()
    assert store.guarantees.create == "atomic"
    before = set(store.numbers(MODEL))
    known = hashed_before(source) if seed % 2 else {}
    server.faults[:] = faults = _faults(dice)
    refused: StoreError | None = None
    published = 0
    try:
        published = publish(store, source, key(f"build {seed}"), **known).release
        promote(store, "production", published, why=str(seed))
        store.fetch(MODEL, published, folder)
    except StoreError as error:
        refused = error
    assert refused is None or refused.fix, faults
    server.faults.clear()
    store = a_store()
    if published:
        assert store.verify(MODEL, published) == [], faults
        assert store.find(MODEL, key(f"build {seed}")) == store.manifest(MODEL, published)
    new = set(store.numbers(MODEL)) - before
    assert len(new) <= 1, faults
    assert not published or new == {published}
    if refused is None:
        assert hash_folder(folder) == store.manifest(MODEL, published).files, faults
        assert store.history(MODEL, "production")[-1].why == str(seed)
    elif published:
        store.fetch(MODEL, published, folder)
        assert hash_folder(folder) == store.manifest(MODEL, published).files, faults
    publish(store, source, key(f"build {seed} again"))
    assert leftovers(server) == [], faults
    assert len([m for m in store.history(MODEL, "production") if m.why == str(seed)]) <= 1, faults
    return "right" if refused is None else "failed"


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, SCHEDULES), marks=pytest.mark.slow)], ids=["some", "all"])
def test_random_faults(server: S3Server, tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 40_000)
    source = make_source(tmp_path / "source", weights=b"w" * 90_000)
    publish(a_store(), source)
    ends = [_survives(server, source, tmp_path / f"out{seed}", seed) for seed in seeds]
    assert ends.count("right") >= len(seeds) / 5, ends
    assert ends.count("failed") >= 1, ends


# One by one -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "problem", "fix"),
    [
        (_error(403, "AccessDenied", times=-1), "forbids it", "AWS_ACCESS_KEY_ID"),
        (_error(404, "NoSuchBucket", times=-1), "there is no such bucket", "the store's URL"),
        (_error(403, "QuotaExceeded", times=-1), "quota is used up", "free some space"),
        (_error(403, "RequestTimeTooSkewed", times=-1), "clock", "NTP"),
        (_error(503, "SlowDown", times=-1), "could not be asked: it answers with status 503 SlowDown", "run again"),
        (_error(400, "ExpiredToken", times=-1), "have expired", "log in again"),
        (Fault("*", reset=True, times=-1), "could not be asked", "check the network"),
    ],
    ids=["forbidden", "no bucket", "quota", "clock", "slow down", "expired", "reset"],
)
def test_what_does_not_pass_is_said_with_what_to_do(server: S3Server, source: Path, fault: Fault, problem: str, fix: str) -> None:
    store = a_store()
    assert store.guarantees.create == "atomic"
    server.faults.append(fault)
    with pytest.raises(StoreError, match=problem) as caught:
        publish(store, source)
    assert fix in str(caught.value.fix)
    server.faults.clear()
    assert publish(a_store(), source).release == 1
    assert leftovers(server) == []


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (_error(501, "NotImplemented", times=-1), "does not know this request"),
        (_error(404, "NoSuchKey", times=-1), "does not know this request"),
        (Fault("*", status=404, body=b"<html><body>nginx", times=-1), "does not know this request"),
        (Fault("*", status=301, body=b"<html><body>moved", times=-1), "sends every request elsewhere"),
    ],
    ids=["501", "404", "a web server", "http instead of https"],
)
def test_what_is_no_s3_server_is_said_to_who_reads_and_to_who_writes(
    server: S3Server, source: Path, tmp_path: Path, fault: Fault, problem: str
) -> None:
    server.faults.append(fault)
    works = [
        lambda: a_store().models(),
        lambda: a_store().numbers(MODEL),
        lambda: publish(a_store(), source),
        lambda: promote(a_store(), "production", 1),
        lambda: a_store().fetch(MODEL, 1, tmp_path / "out"),
    ]
    for work in works:
        with pytest.raises(StoreError, match=problem) as caught:
            work()
        assert "stores.endpoint" in str(caught.value.fix)


def test_wrong_credentials_are_named_and_no_secret_is(server: S3Server, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(StoreError, match="does not accept these credentials") as caught:
        publish(a_store(), source)
    assert "a-wrong-secret" not in f"{caught.value} {caught.value.fix}"


def test_a_clock_that_is_wrong_is_said(server: S3Server, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.s3_server import signature

    monkeypatch.setattr(signature, "MAX_SKEW_SECONDS", -1)
    with pytest.raises(StoreError, match="clock is more than 15 minutes"):
        publish(a_store(), source)


def test_a_bucket_that_is_full_in_the_middle_keeps_what_was_sent(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PART_BYTES", 40_000)
    source = make_source(tmp_path / "source", weights=b"w" * 90_000)
    assert a_store().guarantees.create == "atomic"
    server.quota = 150_000
    with pytest.raises(StoreError, match="quota"):
        publish(a_store(), source)
    assert a_store().numbers(MODEL) == []
    server.quota = None
    before = len(server.requests)
    assert publish(a_store(), source).release == 1
    sent = sum(int(r.headers.get("content-length") or 0) for r in server.requests[before:] if r.method == "PUT")
    assert sent < 220_000, "of 270,000 bytes at least one part was there already"
    assert leftovers(server) == []


def test_a_fetch_goes_on_where_the_connection_broke(server: S3Server, tmp_path: Path) -> None:
    source = make_source(tmp_path / "heavy", weights=bytes(range(256)) * (6 << 12), files=1)
    store = a_store()
    publish(store, source)
    server.faults.append(Fault("*part0.bin", cut_after=2 << 20))
    store.fetch(MODEL, 1, tmp_path / "out")
    ranges = [r.headers.get("range") for r in server.requests if r.path.endswith("part0.bin") and r.method == "GET"]
    assert len(ranges) > 1
    assert not (ranges[-1] or "").startswith("bytes=0-")
    assert hash_folder(tmp_path / "out") == store.manifest(MODEL, 1).files


def test_the_answer_to_the_commit_is_lost_and_the_release_is_still_one(server: S3Server, source: Path) -> None:
    store = a_store()
    assert store.guarantees.create == "atomic"
    server.faults.append(Fault("PUT models/*/releases/*", lost=True))
    assert publish(store, source).release == 1
    server.faults.append(Fault("PUT models/*/channels/*", lost=True))
    promote(store, "production", 1, expect=None)
    assert (store.numbers(MODEL), [m.release for m in store.history(MODEL, "production")]) == ([1], [1])
    assert leftovers(server) == []
    assert [k for k in keys(server) if "/releases/" in k] == [f"models/{MODEL}/releases/1.json"]
