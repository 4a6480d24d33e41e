"""Random faults against NGC and S3: the right bytes or a clear error, nothing wrong in place, no hang, nothing left behind.

The hub's schedules are in test_streams.py; these show that both other sources tell the transfer the right things.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import SourceError
from enginepress.sources import CheckpointSource
from enginepress.sources.ngc import NgcSource
from enginepress.sources.s3 import S3Source
from tests.faulty_http import Fault, FaultyServer
from tests.s3_server import S3Server
from tests.sources.fetching import QUICK, fetch
from tests.sources.ngc_server import NgcServer
from tests.sources.tiny import checkpoint

SCHEDULES = 30
SIZE = 5_000_000
PIECE = 1_000_000
FILES = checkpoint(size=SIZE)
WEIGHTS = FILES["model.safetensors"]


@pytest.fixture
def ngc(monkeypatch: pytest.MonkeyPatch) -> Iterator[NgcServer]:
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    with NgcServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.add_model("org/tiny", {"1": FILES})
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    pytest.importorskip("boto3")
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.add("bucket", FILES, sha256=True)
        yield server


def _faults(dice: random.Random) -> list[Fault]:
    kinds = [
        lambda: Fault("*model.safetensors", cut_after=dice.randrange(PIECE)),
        lambda: Fault("*model.safetensors", status=dice.choice([429, 500, 502, 503]), retry_after=0),
        lambda: Fault("*model.safetensors", short_by=dice.randrange(1, SIZE)),
        lambda: Fault("*model.safetensors", shift_range=dice.randrange(1, 5000)),
        lambda: Fault("*model.safetensors", ignore_range=True),
        lambda: Fault("*model.safetensors", corrupt_at=dice.randrange(SIZE)),
        lambda: Fault("*model.safetensors", delay=dice.random() / 20),
        lambda: Fault("*model.safetensors", pause=dice.random() / 500),
        lambda: Fault("*model.safetensors", status=403),
    ]
    return [dice.choice(kinds)() for _ in range(dice.randrange(1, 7))]


def _survives(source: CheckpointSource, server: FaultyServer, folder: Path, seed: int) -> str:
    dice = random.Random(seed)
    server.faults.clear()  # what the schedule before did not use up
    revision = source.resolve()
    file = next(f for f in revision.files if f.path == "model.safetensors")
    server.faults[:] = faults = _faults(dice)
    corrupt = any(f.corrupt_at is not None for f in faults)
    folder.mkdir()
    target = folder / "weights"
    try:
        fetch(source, revision, file, target, progress=lambda count: None, piece_bytes=PIECE)
    except SourceError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert not target.exists(), faults
        assert refused.fix, faults
        return "refused" if corrupt else "failed"
    assert target.read_bytes() == WEIGHTS, faults
    assert [p.name for p in folder.iterdir()] == ["weights"], faults
    return "right"


def test_random_faults_of_ngc(ngc: NgcServer, tmp_path: Path) -> None:
    ends = [_survives(NgcSource("org", None, "tiny", "1", pauses=QUICK), ngc, tmp_path / str(s), s) for s in range(SCHEDULES)]
    assert ends.count("right") > SCHEDULES / 3, ends


def test_random_faults_of_s3(s3: S3Server, tmp_path: Path) -> None:
    ends = [_survives(S3Source("bucket", "", pauses=QUICK), s3, tmp_path / str(s), s) for s in range(SCHEDULES)]
    assert ends.count("right") > SCHEDULES / 3, ends
    assert {"right", "refused"} <= set(ends)
