"""Publishers and promoters are killed at random moments; readers must not notice, and who comes next must go on."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, make_source, promote, publish
from tests.stores.processes import Reader, run_parts


@pytest.mark.parametrize("kills", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_kills_at_any_moment_leave_whole_releases_and_a_channel_that_leads_to_one(tmp_path: Path, kills: int) -> None:
    source = make_source(tmp_path / "source", weights=b"w" * 200_000)
    store = FileStore(tmp_path / "store")
    publish(store, source)
    promote(store, "production", 1)
    chance = random.Random(20261120)
    reader = Reader(store.root / MODEL / "channels/production")
    with ThreadPoolExecutor(1) as pool, reader:
        reading = pool.submit(reader.run)
        for _ in range(kills):
            _kill_at_some_moment(store, source, chance)
            _check(store)
        reader.stop()
        assert reading.result() > kills
    assert reader.problems == []

    assert publish(store, source).release == max(store.numbers(MODEL))
    promote(store, "production", 1)
    # A lock's temporary file into which nothing was written yet names no owner: it stays until it is old.
    assert [p for p in (store.root / MODEL / ".partial").iterdir() if p.stat().st_size] == []
    assert len(list((store.root / MODEL / "activations").iterdir())) == 2
    moves = store.history(MODEL, "production")
    assert [m.previous for m in moves] == [None, *[m.release for m in moves[:-1]]]


def _kill_at_some_moment(store: FileStore, source: Path, chance: random.Random) -> None:
    """Two processes publish and promote; both are killed in the middle of it."""
    workers = [run_parts("churn", str(store.root), str(source)) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            if worker.stdout.readline() != "turn\n":
                assert worker.stderr is not None
                raise AssertionError(worker.stderr.read())
        time.sleep(chance.uniform(0, 0.1))
    finally:
        for worker in workers:
            worker.kill()
    for worker in workers:
        _, said = worker.communicate(timeout=30)
        assert said == ""


def _check(store: FileStore) -> None:
    for manifest in store.releases(MODEL)[-6:]:
        assert store.verify(MODEL, manifest.release) == []
    assert store.channel(MODEL, "production") == store.history(MODEL, "production")[-1].release
