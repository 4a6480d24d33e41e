"""Large files: several streams, resumed across processes, hashed while they arrive. From a hub over real HTTP."""

from __future__ import annotations

import errno
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import SourceError
from enginepress.sources import RemoteFile, Revision
from enginepress.sources.huggingface import HuggingFaceSource
from enginepress.sources.transfer import partial as partial_module
from enginepress.sources.transfer import streams as streams_module
from enginepress.sources.transfer.partial import Partial
from enginepress.sources.transfer.streams import Streams
from tests.sources.fetching import QUICK, fetch
from tests.sources.hub_server import Fault, HubServer
from tests.sources.tiny import checkpoint

REPO = "org/tiny"
WEIGHTS = "model.safetensors"
KIB = 1024
SMALL: dict[str, Any] = {"small_bytes": 0, "piece_bytes": 128 * KIB, "record_bytes": 64 * KIB, "ramp_seconds": 0.0}
"""So that a file of a megabyte is a large one."""


class Large:
    """A repository with one file of 1 MB, and what it costs to get it."""

    def __init__(self, hub: HubServer, size: int = 1_000_000, seed: int = 0) -> None:
        files = checkpoint(size=size, seed=seed)
        hub.add_repo(REPO, files)
        self.hub = hub
        self.data = files[WEIGHTS]
        self.source = HuggingFaceSource(REPO, pauses=QUICK)
        self.revision: Revision = self.source.resolve()
        self.file: RemoteFile = next(f for f in self.revision.files if f.path == WEIGHTS)
        self.counts: list[int] = []

    def fetch(self, target: Path, **options: Any) -> None:
        target.parent.mkdir(exist_ok=True)
        self.counts = []
        fetch(self.source, self.revision, self.file, target, progress=self.counts.append, **{**SMALL, **options})

    def ranges(self) -> list[str | None]:
        return [r.range for r in self.hub.requests if r.path.startswith("/cdn/")]


@pytest.fixture
def large(hub: HubServer) -> Large:
    return Large(hub)


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_large_file_is_fetched_in_pieces_by_several_streams_at_once(large: Large, tmp_path: Path) -> None:
    large.hub.faults.append(Fault(WEIGHTS, pause=0.05, times=-1))
    large.fetch(tmp_path / "out", streams=4)
    assert (tmp_path / "out").read_bytes() == large.data
    assert large.hub.busiest == 4
    assert len(large.ranges()) == -(-large.file.size // (128 * KIB))
    assert large.hub.sent[WEIGHTS] == large.file.size
    assert sum(large.counts) == large.file.size
    assert _left(tmp_path) == ["out"]


def test_the_hub_is_asked_once_for_the_address_of_a_file_that_comes_in_pieces(large: Large, tmp_path: Path) -> None:
    large.hub.requests.clear()
    large.fetch(tmp_path / "out", streams=1)
    assert large.hub.downloads() == [WEIGHTS]
    assert len(large.ranges()) == 8


def test_an_expired_address_is_asked_for_again(large: Large, tmp_path: Path) -> None:
    large.hub.requests.clear()
    large.hub.faults += [Fault(WEIGHTS), Fault(WEIGHTS, expired=True)]
    large.fetch(tmp_path / "out", streams=1)
    assert (tmp_path / "out").read_bytes() == large.data
    assert large.hub.downloads() == [WEIGHTS] * 2


@pytest.mark.parametrize("at", [0, 1, 500_000, -1])
def test_one_flipped_bit_anywhere_is_refused_and_nothing_is_left(at: int, large: Large, tmp_path: Path) -> None:
    large.hub.faults.append(Fault(WEIGHTS, corrupt_at=at, times=-1))
    with pytest.raises(SourceError, match="is not what its source published"):
        large.fetch(tmp_path / "out")
    assert _left(tmp_path) == []


def test_a_server_that_ignores_ranges_needs_one_request_after_it_is_found_out(large: Large, tmp_path: Path) -> None:
    large.hub.faults.append(Fault(WEIGHTS, ignore_range=True, times=-1))
    large.fetch(tmp_path / "out", streams=4)
    assert (tmp_path / "out").read_bytes() == large.data
    assert len(large.ranges()) <= 5
    assert _left(tmp_path) == ["out"]


def test_a_stream_that_comes_too_late_does_not_fail_a_file_that_is_whole(
    large: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the hash may have seen the last byte and its thread not have ended yet."""
    follow = Streams._follow

    def end_slowly(streams: Streams) -> None:
        follow(streams)
        time.sleep(1.0)

    monkeypatch.setattr(Streams, "_follow", end_slowly)
    # One stream gets the whole file, while another waits for its part of it.
    large.hub.faults += [Fault(WEIGHTS), Fault(WEIGHTS, ignore_range=True), Fault(WEIGHTS, delay=0.5)]
    large.fetch(tmp_path / "out", streams=3)
    assert (tmp_path / "out").read_bytes() == large.data
    assert _left(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WEIGHTS, cut_after=70_000, times=9),
        Fault(WEIGHTS, stall_after=10_000, times=2),
        Fault(WEIGHTS, status=503, times=3),
        Fault(WEIGHTS, length_off=5000, times=2),
        Fault(WEIGHTS, length_off=-5000, times=2),
        Fault(WEIGHTS, range_off=-1000, times=2),
        Fault(WEIGHTS, range_off=1000, times=2),
        Fault(WEIGHTS, ignore_range=True, times=2),
        Fault(WEIGHTS, short_by=7, times=1),
    ],
    ids=lambda f: next(k for k, v in vars(f).items() if v != getattr(Fault(""), k) and k != "pattern"),
)
def test_what_a_server_does_wrong_for_a_while_costs_time_and_nothing_else(fault: Fault, large: Large, tmp_path: Path) -> None:
    large.source._client.http.timeout = 0.3
    large.hub.faults.append(fault)
    large.fetch(tmp_path / "out", streams=3)
    assert (tmp_path / "out").read_bytes() == large.data
    assert sum(large.counts) == large.file.size
    assert _left(tmp_path) == ["out"]


def test_two_streams_that_give_up_at_the_same_time_fail_the_file_and_do_not_wait_for_each_other(
    large: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Streams._pause

    def slowly(streams: Streams, *arguments: Any) -> None:
        try:
            pause(streams, *arguments)
        except streams_module._Retired:
            time.sleep(0.3)  # until the other one gives up as well
            raise

    monkeypatch.setattr(Streams, "_pause", slowly)
    large.hub.faults.append(Fault(WEIGHTS, status=503, times=-1))
    with pytest.raises(SourceError, match="status 503"):
        large.fetch(tmp_path / "out", streams=2, piece_bytes=600_000)


def test_a_file_that_begins_anew_while_it_is_hashed_is_not_called_damaged(
    large: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash reads from the new file, in which nothing is yet, when it still is the old one's."""
    forget, read, begun = Partial.forget, Partial.read, threading.Event()

    def slowly(partial: Partial, version: str | None) -> None:
        forget(partial, version)
        begun.set()
        time.sleep(0.3)

    def late(partial: Partial, offset: int, count: int) -> bytes:
        begun.wait(10)
        return read(partial, offset, count)

    monkeypatch.setattr(Partial, "forget", slowly)
    monkeypatch.setattr(Partial, "read", late)
    large.hub.faults += [Fault(WEIGHTS, corrupt_at=3, etag='"old"', times=1)]
    large.fetch(tmp_path / "out", streams=1)
    assert (tmp_path / "out").read_bytes() == large.data


def test_a_storage_that_refuses_an_address_that_was_just_signed_is_asked_again(large: Large, tmp_path: Path) -> None:
    large.hub.faults.append(Fault(WEIGHTS, expired=True, times=3))
    large.fetch(tmp_path / "out", streams=1)
    assert (tmp_path / "out").read_bytes() == large.data
    large.hub.faults.append(Fault(WEIGHTS, expired=True, times=-1))
    with pytest.raises(SourceError, match=r"storage .* with status 403"):
        large.fetch(tmp_path / "again", streams=1)


def test_what_was_killed_between_two_steps_leaves_nothing_after_a_success(large: Large, tmp_path: Path) -> None:
    digest = large.file.digest.value
    for name in (f"{digest}.{'a' * 12}.part.json", f".{digest}.{'b' * 12}.part.json.new", f"{digest}.{'c' * 12}.part"):
        (tmp_path / name).write_bytes(b"{")
    large.fetch(tmp_path / "out")
    assert _left(tmp_path) == ["out"]


def test_a_partial_file_that_another_process_removes_is_begun_anew(
    large: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As who has fetched the same file for another checkpoint does. No record stays behind without its file."""
    sync = Partial.sync

    def removed(partial: Partial) -> None:
        sync(partial)
        partial.path.unlink()

    monkeypatch.setattr(Partial, "sync", removed)
    with pytest.raises(FileNotFoundError):
        large.fetch(tmp_path / "out")
    assert _left(tmp_path) == []


def test_a_disk_that_is_full_for_the_last_record_too_keeps_the_one_before(
    large: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.hub.faults += [Fault(WEIGHTS, times=4), Fault(WEIGHTS, status=503, times=-1)]
    write = partial_module.write_unsynced

    def full(path: Path, text: str) -> None:
        if json.loads(text)["owner"] is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(partial_module, "write_unsynced", full)
    with pytest.raises(SourceError, match="status 503"):
        large.fetch(tmp_path / "out", streams=1)
    (record,) = tmp_path.glob("*.json")
    # The one before may lack the last block, however small that was.
    ((start, stop),) = json.loads(record.read_text())["spans"]
    assert start == 0
    assert 524_288 - SMALL["record_bytes"] < stop <= 524_288


def test_a_file_that_changes_while_it_is_fetched_is_fetched_anew(large: Large, tmp_path: Path) -> None:
    large.hub.faults += [Fault(WEIGHTS, corrupt_at=3, etag='"old"', times=3)]
    large.fetch(tmp_path / "out", streams=1)
    assert (tmp_path / "out").read_bytes() == large.data
    assert sum(large.counts) == large.file.size


def test_a_mirror_whose_machines_give_different_etags_is_believed_by_the_digest(large: Large, tmp_path: Path) -> None:
    large.hub.faults += [Fault(WEIGHTS, etag=f'"{n % 3}"') for n in range(100)]
    large.fetch(tmp_path / "out", streams=2)
    assert (tmp_path / "out").read_bytes() == large.data


def test_a_few_streams_that_are_refused_leave_their_pieces_to_the_others(large: Large, tmp_path: Path) -> None:
    """A server that allows one connection only."""
    large.hub.faults += [Fault(WEIGHTS, pause=0.2), Fault(WEIGHTS, status=429, times=15)]
    large.fetch(tmp_path / "out", streams=4)
    assert (tmp_path / "out").read_bytes() == large.data


def test_a_file_that_cannot_be_had_says_how_far_it_came_and_the_next_attempt_goes_on_there(large: Large, tmp_path: Path) -> None:
    large.hub.faults += [Fault(WEIGHTS, times=4), Fault(WEIGHTS, status=503, times=-1)]
    with pytest.raises(SourceError, match=r"could not be fetched, 524,288 of 1,0.* status 503"):
        large.fetch(tmp_path / "out", streams=1)
    assert [Path(name).suffix for name in _left(tmp_path)] == [".part", ".json"]
    large.hub.faults.clear()
    large.hub.sent.clear()
    large.fetch(tmp_path / "out", streams=1)
    assert (tmp_path / "out").read_bytes() == large.data
    assert large.hub.sent[WEIGHTS] == large.file.size - 524_288
    assert sum(large.counts) == large.file.size
    assert _left(tmp_path) == ["out"]


def _interrupted(large: Large, folder: Path) -> Path:
    """A partial file with half of the bytes, given up in order."""
    large.hub.faults += [Fault(WEIGHTS, times=4), Fault(WEIGHTS, status=503, times=-1)]
    with pytest.raises(SourceError):
        large.fetch(folder / "out", streams=1)
    large.hub.faults.clear()
    large.hub.sent.clear()
    (part,) = folder.glob("*.part")
    return part


@pytest.mark.parametrize("at", [0, 300_000])
def test_a_partial_file_that_was_damaged_meanwhile_is_found_out_and_fetched_anew(at: int, large: Large, tmp_path: Path) -> None:
    part = _interrupted(large, tmp_path)
    with open(part, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))
    large.fetch(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == large.data
    assert _left(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"{",
        lambda data: b"[]",
        lambda data: json.dumps({**data, "spans": [[0, 10**9]]}).encode(),
        lambda data: json.dumps({**data, "spans": [[5, 2]]}).encode(),
        lambda data: json.dumps({**data, "spans": [["x", 2]]}).encode(),
        lambda data: json.dumps({**data, "size": 5}).encode(),
        lambda data: json.dumps({**data, "format": 99}).encode(),
        lambda data: json.dumps({**data, "owner": 3}).encode(),
        lambda data: json.dumps({**data, "spans": [[0, data["size"]]]}).encode(),
    ],
)
def test_a_record_that_lies_or_is_damaged_never_leads_to_a_wrong_file(damage: Any, large: Large, tmp_path: Path) -> None:
    part = _interrupted(large, tmp_path)
    record = part.with_name(part.name + ".json")
    record.write_bytes(damage(json.loads(record.read_bytes())))
    large.fetch(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == large.data
    assert [name for name in _left(tmp_path) if not name.startswith("out")] == []


def test_what_a_machine_that_may_be_asleep_left_is_copied_and_never_written_to(large: Large, tmp_path: Path) -> None:
    part = _interrupted(large, tmp_path)
    record = part.with_name(part.name + ".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "owner": {"kernel": "another", "pid": 1, "start": "1"}}))
    with open(part, "r+b") as asleep:
        large.fetch(tmp_path / "out")
        assert large.hub.sent[WEIGHTS] == large.file.size - 524_288
        asleep.write(b"it wakes up and writes")
    assert (tmp_path / "out").read_bytes() == large.data
    assert _left(tmp_path) == ["out"]


def test_what_a_running_process_of_this_machine_is_writing_is_let_be(large: Large, tmp_path: Path) -> None:
    part = _interrupted(large, tmp_path)
    from enginepress.process import kernel, process_start

    record = part.with_name(part.name + ".json")
    owner = {"kernel": kernel(), "pid": 1, "start": process_start(1)}
    record.write_text(json.dumps({**json.loads(record.read_text()), "owner": owner}))
    large.fetch(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == large.data
    assert large.hub.sent[WEIGHTS] == large.file.size
    assert sorted(_left(tmp_path)) == sorted(["out", part.name, record.name])


def test_the_bandwidth_can_be_capped(large: Large, tmp_path: Path) -> None:
    start = time.monotonic()
    large.fetch(tmp_path / "out", bytes_per_second=1_000_000)
    assert 0.5 < time.monotonic() - start < 5
    assert (tmp_path / "out").read_bytes() == large.data


def test_a_renamed_repository_is_followed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = checkpoint(size=300_000)
    hub.add_repo("org/old", files, token="hf_secret")
    hub.rename("org/old", "org/new")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = HuggingFaceSource("org/old", pauses=QUICK)
    revision = source.resolve()
    file = next(f for f in revision.files if f.path == WEIGHTS)
    fetch(source, revision, file, tmp_path / "out", progress=lambda count: None)
    assert (tmp_path / "out").read_bytes() == files[WEIGHTS]
    assert {r.token for r in hub.requests if r.host.startswith("localhost")} == {None}


def _random_fault(random_: random.Random, size: int) -> Fault:
    times = random_.choice([1, 1, 1, 2, 3])
    pattern = random_.choice([WEIGHTS, WEIGHTS, WEIGHTS, "*.json", "/api/*"])
    at = random_.randrange(size)
    kind = random_.choice(
        ["cut", "cut", "stall", "slow", "429", "5xx", "length", "range", "etag", "expired", "corrupt", "ignore", "short", "body"]
    )
    made: dict[str, dict[str, Any]] = {
        "cut": {"cut_after": random_.choice([0, at])},
        "stall": {"stall_after": random_.choice([0, at])},
        "slow": {"pause": 0.02},
        "429": {"status": 429, "retry_after": random_.choice([None, 0, 1])},
        "5xx": {"status": random_.choice([500, 502, 503, 504])},
        "length": {"length_off": random_.choice([-at, -1, 1, at])},
        "range": {"range_off": random_.choice([-at, -1, 1, at])},
        "etag": {"etag": f'"{at}"', "corrupt_at": random_.choice([None, at])},
        "expired": {"expired": True},
        "corrupt": {"corrupt_at": at},
        "ignore": {"ignore_range": True},
        "short": {"short_by": random_.choice([1, 1 + at // 2])},
        "body": {"body": random_.choice([b"", b"<html>busy</html>", b"{}"])},
    }
    return Fault(pattern, **made[kind], times=times)


def _schedule(seed: int, hub: HubServer, folder: Path) -> str:
    """One download under random faults; then, if it failed, one without. Returns how the first ended."""
    from enginepress.sources.download import download_checkpoint

    random_ = random.Random(seed)
    size = random_.choice([10_000, 200_000, 400_000])
    files = checkpoint(size=size, seed=seed)
    hub.add_repo(REPO, files)
    hub.faults[:] = [_random_fault(random_, size) for _ in range(random_.randrange(1, 7))]
    shape = {
        "ramp_seconds": 0.0,
        "streams": random_.choice([1, 2, 4]),
        "piece_bytes": 64 * KIB,
        "small_bytes": random_.choice([0, 50_000, 10**6]),
    }

    (folder / "output").mkdir(parents=True)

    def attempt() -> None:
        source = HuggingFaceSource(REPO, pauses=QUICK)
        source._client.http.timeout = 0.25
        download_checkpoint(
            source,
            source.resolve(),
            folder / "output",
            partial_store=folder / "store",
            progress=lambda *_: None,
            pauses=QUICK,
            **shape,
        )

    wanted = {path: data for path, data in files.items() if path not in ("README.md", ".gitattributes")}
    failure: SourceError | None = None
    try:
        attempt()
    except SourceError as error:
        failure = error
    if failure is not None:
        assert failure.fix
        assert failure.where
        assert list((folder / "output").iterdir()) == []
        hub.faults.clear()
        attempt()
    assert {p.name: p.read_bytes() for p in (folder / "output").iterdir()} == wanted
    assert list((folder / "store").iterdir()) == []
    return "done" if failure is None else "failed"


def _schedules(seeds: range, hub: HubServer, tmp_path: Path) -> None:
    ends = set()
    for seed in seeds:
        try:
            ends.add(_schedule(seed, hub, tmp_path / str(seed)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert ends == {"done", "failed"}


def test_under_random_faults_a_download_ends_with_the_right_bytes_or_a_clear_error(hub: HubServer, tmp_path: Path) -> None:
    _schedules(range(40), hub, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(40, 300, 65))
def test_under_many_random_faults_too(first: int, hub: HubServer, tmp_path: Path) -> None:
    _schedules(range(first, first + 65), hub, tmp_path)
