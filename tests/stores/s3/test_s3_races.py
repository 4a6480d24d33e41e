"""Publishers, movers, removers and writers of records at once: each may come at any request of another one.

What comes in between runs whole before one request of the other, at each of its requests in turn: so every order of two is
seen, without threads and without chance. `test_s3_ceph.py` has real processes side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError
from enginepress.steps.prune import Policy, plan_prune, prune
from enginepress.stores.s3 import S3Store, publishers, publishing
from enginepress.stores.s3.client import Unmet
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, leftovers, promote, publish

Work = Callable[[S3Store], Any]


class Stopped(BaseException):
    """The process is gone."""


def at_once(outer: Work, inner: Work, at: int, monkeypatch: pytest.MonkeyPatch, *, killed_at: int = 0) -> list[str] | None:
    """What both were told, the inner one first: "done", or why not. None if the outer one makes fewer requests.

    Args:
        at: the request of the outer one before which the inner one comes.
        killed_at: the request from which on the outer one is dead; 0: none.
    """
    store, seen, lock = a_store(), 0, threading.Lock()
    told: list[str] = []
    request = store._client._once

    def attempt(*arguments: Any, **query: Any) -> Any:
        nonlocal seen
        with lock:
            seen += 1
            if seen == at:
                told.append(outcome(inner, a_store()))
            if killed_at and seen >= killed_at:
                raise Stopped
        return request(*arguments, **query)

    with monkeypatch.context() as patch:
        patch.setattr(store._client, "_once", attempt)
        told.append(outcome(outer, store))
    return told if len(told) == 2 else None


def outcome(work: Work, store: S3Store) -> str:
    try:
        work(store)
        return "done"
    except StoreError as error:
        return str(error)
    except Stopped:
        return "killed"


def removal(number: int) -> Work:
    return lambda store: store.remove(MODEL, number)


def move(number: int) -> Work:
    return lambda store: promote(store, "production", number)


@pytest.fixture
def kept(store: S3Store, source: Path) -> S3Store:
    """Release 1, on channel production."""
    publish(store, source)
    promote(store, "production", 1)
    return store


@pytest.mark.parametrize("first", ["removal", pytest.param("move", marks=pytest.mark.slow)])
def test_of_a_removal_and_a_move_one_gives_way(
    server: S3Server, kept: S3Store, source: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for at in range(1, 100):
        number = publish(kept, source, key(f"build {at}")).release
        both = (removal(number), move(number)) if first == "removal" else (move(number), removal(number))
        told = at_once(*both, at, monkeypatch)
        if told is None:
            break
        seen.add(tuple(t == "done" for t in told))
        there, named = kept.numbers(MODEL), kept.channel(MODEL, "production")  # raises if it dangles
        assert told.count("done") <= 1, told
        assert (named == number) == (told[0 if first == "removal" else 1] == "done"), (at, told)
        assert (number not in there) == (told[1 if first == "removal" else 0] == "done"), (at, told)
        assert all(kept.verify(MODEL, n, contents=False) == [] for n in there)
        assert leftovers(server) == [], (at, told)
        promote(kept, "production", 1)
    assert at > 8
    assert {(True, False), (False, True)} <= seen, "either is the faster one"


@pytest.mark.slow
def test_a_removal_that_is_killed_after_somebody_came_in_between_leaves_no_channel_that_dangles(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 100):
        for killed_at in range(at, 100):
            number = publish(kept, source, key("build")).release
            told = at_once(removal(number), move(number), at, monkeypatch, killed_at=killed_at)
            publish(kept, source, key("next"))
            assert kept.channel(MODEL, "production") in kept.numbers(MODEL)
            assert all(kept.verify(MODEL, n, contents=False) == [] for n in kept.numbers(MODEL)[-5:])
            assert leftovers(server) == [], (at, killed_at, told)
            promote(kept, "production", 1)
            if told is None or told[1] != "killed":
                break
        if told is None:
            break
    assert at > 8


def test_of_two_removals_one_is_told_of_the_other_and_all_is_gone(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 100):
        number = publish(kept, source, key(f"build {at}")).release
        told = at_once(removal(number), removal(number), at, monkeypatch)
        if told is None:
            break
        assert told.count("done") == 1, (at, told)
        assert all("no release" in t or "removed by somebody else" in t for t in told if t != "done"), told
        assert number not in kept.numbers(MODEL)
        assert leftovers(server) == [], (at, told)
    assert at > 8


@pytest.mark.slow
def test_of_two_prunes_at_once_one_leaves_to_the_other_what_that_is_removing(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(keep=1, grace=0.0)

    def pruned(store: S3Store) -> None:
        (done,) = prune(plan_prune([store], MODEL, policy), policy)
        if done.refused:
            raise StoreError(str(done.refused))

    for at in range(1, 200):
        number = publish(kept, source, key("build")).release
        told = at_once(pruned, pruned, at, monkeypatch)
        if told is None:
            break
        assert told[1] == "done", at
        assert told[0] == "done" or "is being published or removed by somebody else" in told[0], at
        assert (kept.numbers(MODEL), leftovers(server)) == ([1, number], []), at
    assert at > 20


@pytest.mark.slow
@pytest.mark.parametrize("first", ["publish", "removal"])
def test_a_release_from_which_files_are_copied_may_be_removed_meanwhile(
    server: S3Server, store: S3Store, source: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "COPIED_FROM", 4)
    assert store.guarantees.copies

    def publishing_again(other: S3Store) -> None:
        publish(other, source, key("again"))

    for at in range(1, 200):
        number = publish(store, source, key("build")).release
        both = (publishing_again, removal(number)) if first == "publish" else (removal(number), publishing_again)
        told = at_once(*both, at, monkeypatch)
        if told is None:
            break
        assert told == ["done", "done"], at
        (newest,) = store.numbers(MODEL)
        assert store.verify(MODEL, newest) == []
        assert leftovers(server) == [], at
        store.remove(MODEL, newest)
    assert at > 8


@pytest.mark.slow
@pytest.mark.parametrize("first", ["record", "removal"])
def test_a_record_that_is_written_while_its_release_is_removed_does_not_stay(
    server: S3Server, kept: S3Store, source: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 100):
        number = publish(kept, source, key("build")).release

        def record(store: S3Store, number: int = number) -> None:
            store.write_record(MODEL, number, "checks-late", {"n": 1})

        told = at_once(*((record, removal(number)) if first == "record" else (removal(number), record)), at, monkeypatch)
        if told is None:
            break
        kept.sweep(MODEL)
        assert number not in kept.numbers(MODEL)
        assert leftovers(server) == [], (at, told)
    assert at > 1


def test_a_sweep_leaves_the_records_of_a_release_that_may_be_put_back(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mover was killed after its move and before it looked: the remover finds the channel, and puts its release back."""
    number = publish(kept, source, key("build")).release
    kept.write_record(MODEL, number, "checks-a", {"n": 1})
    remover = a_store()
    put = remover._client.put

    def empties(name: str, data: bytes, **more: Any) -> str:
        if name.endswith(f"releases/{number}.json") and not data:
            with monkeypatch.context() as patch:
                patch.setattr("enginepress.stores.s3.removing.is_being_removed", lambda *_: False)
                promote(a_store(), "production", number)
            etag = put(name, data, **more)
            a_store().sweep(MODEL)
            return etag
        return put(name, data, **more)

    monkeypatch.setattr(remover._client, "put", empties)
    with pytest.raises(StoreError, match=r"was put on production meanwhile, so it stays"):
        remover.remove(MODEL, number)
    assert kept.channel(MODEL, "production") == number
    assert kept.verify(MODEL, number) == []
    assert kept.read_record(MODEL, number, "checks-a") == {"n": 1}
    assert leftovers(server) == []


def test_a_move_whose_answer_was_lost_is_taken_back_too(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = publish(kept, source, key("build")).release
    mover = a_store()
    put = mover._client.put

    def lost(name: str, data: bytes, **more: Any) -> str:
        if name.endswith("channels/production.json") and not removed:
            removed.append(True)
            a_store().remove(MODEL, number)
            put(name, data, **more)
            raise Unmet
        return put(name, data, **more)

    removed: list[bool] = []
    monkeypatch.setattr(mover._client, "put", lost)
    with pytest.raises(StoreError, match="was removed meanwhile"):
        promote(mover, "production", number)
    assert (kept.channel(MODEL, "production"), len(kept.history(MODEL, "production"))) == (1, 1)


def test_a_note_of_a_dead_remover_bars_nobody_for_long(
    server: S3Server, kept: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = publish(kept, source, key("build")).release
    dead = publishers.Publisher(kept._client, kept._keys(MODEL), kept.guarantees)
    assert dead.begin_removal(kept._read(MODEL, number)[1])
    with pytest.raises(StoreError, match="is being published or removed by somebody else"):
        kept.remove(MODEL, number)
    dead.end_removal()  # as if it were gone
    with pytest.raises(StoreError, match=r"release 2 of tiny is being removed") as caught:
        promote(kept, "production", number)
    assert "`enginepress prune`" in str(caught.value.fix)
    kept.sweep(MODEL)
    promote(kept, "production", number)
    promote(kept, "production", 1)
    assert dead.begin_removal(kept._read(MODEL, number)[1])
    dead.end_removal()
    kept.remove(MODEL, number)
    assert (kept.numbers(MODEL), leftovers(server)) == ([1], [])


@pytest.mark.slow
def test_a_fresh_publisher_sends_what_was_removed_while_it_was_copied(
    server: S3Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, too: an upload that was begun for the copy does not stay behind."""
    from enginepress.stores.s3 import sending

    monkeypatch.setattr(publishing, "COPIED_FROM", 4)
    monkeypatch.setattr(sending, "COPY_PART_BYTES", 40_000)
    large = make_source(tmp_path / "large", weights=b"w" * 100_000, files=1)
    for at in range(1, 200):
        number = publish(store, large, key("build")).release
        told = at_once(lambda s: publish(s, large, key("again")), removal(number), at, monkeypatch)
        if told is None:
            break
        assert told == ["done", "done"], at
        (newest,) = store.numbers(MODEL)
        assert (store.verify(MODEL, newest), leftovers(server)) == ([], []), at
        store.remove(MODEL, newest)
    assert at > 8
