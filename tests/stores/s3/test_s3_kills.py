"""The publisher is killed at each request that it makes, one by one: readers never see part of a release, nothing leaks.

A killed publisher is one whose requests stop: nothing else of it can change the store. In one test each it is stopped before
a request, and after one was carried out but not answered; `slow` kills real processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import StoreError
from enginepress.manifest import Manifest
from enginepress.stores.s3 import S3Store, sending
from enginepress.stores.s3.client import StoreClient
from tests.faulty_http import Request
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key, make_source
from tests.stores.s3.stores import a_store, hashed_before, leftovers, promote, publish, small_parts


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Stops every request of a client from the n-th on: before it is made, or after the n-th was carried out."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after = at, after
        self.seen = 0
        self.dead = False
        self._lock = threading.Lock()

    def around(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*arguments: Any, **query: Any) -> Any:
            with self._lock:
                self.seen += 1
                mine = self.seen == self.at
                if self.dead or (mine and not self.after):
                    self.dead = True
                    raise Killed
            answer = request(*arguments, **query)
            if mine or self.dead:
                self.dead = True
                raise Killed
            return answer

        return attempt


def check_whole(server: S3Server) -> Callable[[Request], None]:
    """A reader that looks after every request: each release that is there is there with all its files."""

    def look(seen: Request) -> None:
        bucket = server.buckets["bucket"]
        for name in list(bucket.objects):
            found = bucket.current(name)
            if f"/{MODEL}/releases/" in name and found is not None and found.data:
                manifest = Manifest.from_text(found.data, where=name)
                folder = f"models/{MODEL}/repositories/{found.metadata['x-amz-meta-repository']}/"
                for entry in manifest.files:
                    stored = bucket.current(folder + entry.path)
                    if stored is None or len(stored.data) != entry.size:
                        problems.append(f"{name} has no {entry.path} after {seen.method} {seen.path}")

    problems: list[str] = []
    look.problems = problems  # type: ignore[attr-defined]
    return look


def _killed_at(source: Path, at: int, *, after: bool, work: Callable[[S3Store], Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the work was killed; False if it made fewer requests."""
    killer = Killer(at, after=after)
    store = a_store()
    with monkeypatch.context() as patch:
        patch.setattr(store._client, "_once", killer.around(store._client._once))
        try:
            work(store)
        except (Killed, StoreError):
            pass
        # What runs after the commit may be stopped without anybody being told.
        return killer.dead


@pytest.mark.parametrize(
    ("after", "same"),
    [
        pytest.param(True, True, id="after a request, then the same content"),
        pytest.param(False, False, id="before a request, then another content", marks=pytest.mark.slow),
        pytest.param(False, True, id="before a request, then the same content", marks=pytest.mark.slow),
        pytest.param(True, False, id="after a request, then another content", marks=pytest.mark.slow),
    ],
)
def test_a_publisher_that_is_killed_at_any_request(
    server: S3Server, tmp_path: Path, after: bool, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 40_000)
    first = make_source(tmp_path / "first", weights=b"w" * 100_000)
    second = make_source(tmp_path / "second", weights=b"v" * 100_000)
    server.after_request = look = check_whole(server)  # type: ignore[method-assign]
    store = a_store()
    publish(store, first, key("before"))
    known = hashed_before(second) if same else {}  # the two ways in which a large file is sent
    kills = 0
    for at in range(1, 200):
        killed = _killed_at(
            second, at, after=after, work=lambda s: publish(s, second, key("b"), **known), monkeypatch=monkeypatch
        )
        newest = publish(a_store(), second if same else first, key("c"), **known).release
        assert newest == max(store.numbers(MODEL))
        assert leftovers(server) == [], at
        assert all(store.verify(MODEL, n, contents=False) == [] for n in store.numbers(MODEL))
        if not killed:
            break
        kills += 1
    assert kills > 20
    assert store.verify(MODEL, newest) == []
    assert look.problems == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(False, id="before a request", marks=pytest.mark.slow),
        pytest.param(True, id="after a request"),
    ],
)
def test_a_removal_and_a_move_that_are_killed_at_any_request(
    server: S3Server, source: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.after_request = look = check_whole(server)  # type: ignore[method-assign]
    store = a_store()
    publish(store, source)
    for work in (
        lambda s: s.remove(MODEL, max(s.numbers(MODEL))),
        lambda s: promote(s, "production", max(s.numbers(MODEL))),
    ):
        for at in range(1, 60):
            store.write_record(MODEL, publish(store, source).release, "checks-a", {"n": 1})
            killed = _killed_at(source, at, after=after, work=work, monkeypatch=monkeypatch)
            publish(store, source)
            assert leftovers(server) == []
            if not killed:
                break
        assert at > 5
    moves = store.history(MODEL, "production")
    assert [m.previous for m in moves] == [None, *[m.release for m in moves[:-1]]]
    assert store.channel(MODEL, "production") == moves[-1].release
    assert look.problems == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("hashed", [False, True], ids=["hashed as it is sent", "hashed before"])
def test_what_a_killed_publisher_sent_is_not_sent_again(
    server: S3Server, tmp_path: Path, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 1 << 20)
    source = make_source(tmp_path / "heavy", weights=bytes(range(256)) * (4 << 12), files=2)  # 2 files of 4 MiB and a byte
    known = hashed_before(source) if hashed else {}
    store = a_store()
    assert store.guarantees.etag_md5
    sent = 0

    def parts_sent(since: int) -> int:
        return sum(1 for r in server.requests[since:] if "partNumber" in r.query and r.method == "PUT")

    class Half(Killer):
        def around(self, request: Callable[..., Any]) -> Callable[..., Any]:
            def attempt(operation: str, *arguments: Any, **query: Any) -> Any:
                nonlocal sent
                if self.dead:
                    raise Killed
                answer = request(operation, *arguments, **query)
                sent += operation == "upload_part"
                self.dead = sent >= 6
                return answer

            return attempt

    victim = a_store()
    with monkeypatch.context() as patch:
        patch.setattr(victim._client, "_once", Half(0, after=True).around(victim._client._once))
        with pytest.raises(Killed):
            publish(victim, source, **known)
    assert server.uploads
    before = len(server.requests)
    assert publish(store, source, **known).release == 1
    assert parts_sent(before) <= 10 - 6
    assert store.verify(MODEL, 1) == []
    assert leftovers(server) == []


def test_a_living_publisher_is_left_alone_and_a_sleeping_one_cannot_commit_what_was_removed(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from enginepress.stores.s3 import publishers

    slow, quick = make_source(tmp_path / "slow", weights=b"slow"), make_source(tmp_path / "quick", weights=b"quick")
    sleeper = a_store()
    asleep, wake = threading.Event(), threading.Event()
    commit = sleeper._client.put

    def put(key: str, *arguments: Any, **more: Any) -> str:
        if key.endswith("/releases/1.json") and not wake.is_set():
            asleep.set()
            assert wake.wait(30)
        return commit(key, *arguments, **more)

    monkeypatch.setattr(sleeper._client, "put", put)
    result: list[Any] = []

    def publish_slowly() -> None:
        try:
            result.append(publish(sleeper, slow, key("slow")).release)
        except StoreError as error:
            result.append(error)

    thread = threading.Thread(target=publish_slowly)
    thread.start()
    assert asleep.wait(30)
    assert publish(a_store(), quick, key("quick")).release == 1
    assert any("/repositories/1-" in line for line in leftovers(server)), "the living one's files are still there"
    monkeypatch.setattr(publishers, "ABANDONED_SECONDS", -1.0)
    monkeypatch.setattr(publishers, "_mine", set())
    assert publish(a_store(), quick, key("quick")).release == 2
    assert leftovers(server) == []
    wake.set()
    thread.join(60)
    # Its number is taken; its files are gone, and so it sends them again.
    assert result == [3]
    assert a_store().verify(MODEL, 3) == []
    assert leftovers(server) == []


def test_a_commit_that_was_on_its_way_when_its_publisher_was_killed_keeps_its_files(
    server: S3Server, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may carry it out after somebody has gone on with the same repository and is about to commit it."""
    on_its_way: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    victim, next_one = a_store(), a_store()

    def killed(operation: str, at: str, **query: Any) -> Any:
        if on_its_way:
            raise Killed
        if at.endswith("/releases/1.json"):
            on_its_way.append(((operation, at), query))
            raise Killed
        return ask(operation, at, **query)

    def overtaken(operation: str, at: str, **query: Any) -> Any:
        if operation == "put_object" and at.endswith("/releases/1.json") and on_its_way:
            arguments, late = on_its_way.pop()
            a_store()._client._once(*arguments, **late)
        return go_on(operation, at, **query)

    ask, go_on = victim._client._once, next_one._client._once
    monkeypatch.setattr(victim._client, "_once", killed)
    with pytest.raises(Killed):
        publish(victim, source, key("killed"))
    monkeypatch.setattr(next_one._client, "_once", overtaken)
    assert publish(next_one, source, key("next")).release == 2
    store = a_store()
    assert [store.manifest(MODEL, n).build_key for n in store.numbers(MODEL)] == [key("killed"), key("next")]
    assert [store.verify(MODEL, n) for n in store.numbers(MODEL)] == [[], []]
    assert leftovers(server) == []


def test_a_publisher_that_slept_while_another_finished_its_work_leaves_that_release_whole(
    server: S3Server, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from enginepress.stores.s3 import publishers

    sleeper = a_store()
    put = sleeper._client.put

    def asleep(at: str, *arguments: Any, **more: Any) -> str:
        if at.endswith("/releases/1.json") and not a_store().numbers(MODEL):
            with monkeypatch.context() as patch:
                patch.setattr(publishers, "ABANDONED_SECONDS", -1.0)
                patch.setattr(publishers, "_mine", set())
                assert publish(a_store(), source, key("awake")).release == 1
        return put(at, *arguments, **more)

    monkeypatch.setattr(sleeper._client, "put", asleep)
    assert publish(sleeper, source, key("asleep")).release == 2
    store = a_store()
    assert [store.verify(MODEL, n) for n in store.numbers(MODEL)] == [[], []]
    assert leftovers(server) == []


@pytest.mark.slow
def test_processes_that_are_really_killed(server: S3Server, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", weights=b"w" * 100_000)
    server.after_request = look = check_whole(server)  # type: ignore[method-assign]
    store = a_store()
    publish(store, source)
    look_only = server.after_request
    for at in range(2, 60, 2):
        victim: list[subprocess.Popen[str]] = []
        count = 0

        def kill(seen: Request, at: int = at, victim: list[subprocess.Popen[str]] = victim) -> None:
            nonlocal count
            look_only(seen)
            count += 1
            if count == at and victim:
                victim[0].kill()

        server.after_request = kill  # type: ignore[method-assign]
        command = [sys.executable, "-m", "tests.stores.s3.publish", str(source), key("victim")]
        victim.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        out, err = victim[0].communicate(timeout=60)
        assert victim[0].returncode in (0, -9), err
        server.after_request = look  # type: ignore[method-assign]
        publish(a_store(), source, key(f"after {at}"))
        assert leftovers(server) == [], at
        if victim[0].returncode == 0:
            assert json.loads(out)["release"]
            break
    assert at > 20
    assert look.problems == []  # type: ignore[attr-defined]


def test_the_client_is_what_all_requests_go_through() -> None:
    """Otherwise the sweeps above would miss some."""
    import inspect

    from enginepress.stores.s3 import channels, client, probe, publishers, publishing, reading, removing, store

    for module in (channels, probe, publishers, publishing, reading, removing, sending, store):
        assert "boto_client" not in inspect.getsource(module), module
    assert inspect.getsource(client).count("getattr(boto") == 1
    assert issubclass(StoreClient, object)
