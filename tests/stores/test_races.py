"""Publishers, movers and a pruner at once, each a process of its own, while readers look."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, key, make_source, promote, publish
from tests.stores.processes import run_parts, watched


def finished(worker: subprocess.Popen[str]) -> str:
    """What a process printed, if nothing went wrong in it."""
    out, said = worker.communicate(timeout=120)
    assert worker.returncode == 0, said
    return out.strip()


def test_eight_publishers_of_a_model_that_share_files_get_eight_numbers_and_eight_whole_releases(tmp_path: Path) -> None:
    """They link what the others have published just now, and each has a file of its own."""
    store = FileStore(tmp_path / "store")
    publish(store, make_source(tmp_path / "first", weights=b"shared" * 50_000))
    workers = []
    for index in range(8):
        source = make_source(tmp_path / f"source{index}", weights=b"shared" * 50_000)
        (source / MODEL / "0/own.bin").write_bytes(f"own {index}".encode() * 1000)
        workers.append(run_parts("publish", str(store.root), str(source), key(f"k{index}")))
    numbers = [int(finished(worker)) for worker in workers]
    assert sorted(numbers) == list(range(2, 10))
    for index, number in enumerate(numbers):
        assert store.verify(MODEL, number) == []
        version = store.repository(MODEL, number) / MODEL / str(number)
        assert (version / "own.bin").read_bytes() == f"own {index}".encode() * 1000
        assert store.manifest(MODEL, number).build_key == key(f"k{index}")
    assert list((store.root / MODEL / ".partial").iterdir()) == []


def test_publishers_movers_and_a_pruner_at_once_leave_whole_releases_and_a_channel_that_leads_to_one(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", weights=b"w" * 100_000)
    store = FileStore(tmp_path / "store")
    for name in "abc":
        publish(store, source, key(name))
    promote(store, "production", 1)
    with watched(store) as problems:
        pruner = run_parts("prune", str(store.root), "2")
        try:
            for turn in range(3):
                publishers = [run_parts("publish", str(store.root), str(source), key(f"{turn}{n}")) for n in range(3)]
                mover = run_parts("promote", str(store.root), "production", str(store.numbers(MODEL)[-1]))
                assert all(int(finished(p)) > 3 for p in publishers)
                assert finished(mover).split(":")[0] in ("moved", "refused")
            time.sleep(0.5)
            assert pruner.poll() is None, "nothing went wrong in it"
        finally:
            pruner.kill()
            out, _ = pruner.communicate()
    assert problems == []
    removed = [int(number) for line in out.splitlines() for number in line.split()[1:]]
    assert removed
    left = store.numbers(MODEL)
    assert len(removed) == len(set(removed))
    assert not set(removed) & set(left)
    assert {store.channel(MODEL, "production"), *range(11, 13)} <= set(left), "the channel's, and the newest two of twelve"
    for number in left:
        assert store.verify(MODEL, number) == []
