"""s3:// from OpenStack Swift, an S3 server that others wrote, where it is installed (tests/s3_server/swift.py)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import SourceError
from enginepress.sources.s3 import S3Source
from tests.s3_server.swift import VARIABLE, SwiftServer, installed
from tests.sources.fetching import QUICK, fetch
from tests.sources.tiny import checkpoint

boto3 = pytest.importorskip("boto3")
FILES = checkpoint(size=9_000_000)
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    place = installed()
    if place is None:
        pytest.skip(f"Swift is not installed (pip install swift), and {VARIABLE} names no environment that has it")
    with SwiftServer(place, tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def client(swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    from botocore.config import Config

    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    return boto3.session.Session().client("s3", region_name="us-east-1", config=config)


def _upload(client: Any, bucket: str, files: dict[str, bytes]) -> None:
    from boto3.s3.transfer import TransferConfig

    parts = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20)
    for path, data in files.items():
        client.upload_fileobj(io.BytesIO(data), bucket, f"models/tiny/{path}", Config=parts)


@pytest.mark.parametrize("versioned", [False, True], ids=["plain bucket", "bucket that keeps versions"])
def test_what_was_resolved_is_fetched_and_nothing_else(versioned: bool, client: Any, tmp_path: Path) -> None:
    bucket = "versioned" if versioned else "plain"
    client.create_bucket(Bucket=bucket)
    if versioned:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    _upload(client, bucket, FILES)
    source = S3Source(bucket, "models/tiny", pauses=QUICK)
    revision = source.resolve()
    kinds = {f.path: f.digest.algorithm for f in revision.files}
    assert (kinds["config.json"], kinds[WEIGHTS]) == ("md5", "none")
    weights = next(f for f in revision.files if f.path == WEIGHTS)
    fetch(source, revision, weights, tmp_path / "first", progress=lambda count: None, piece_bytes=2_000_000)
    assert (tmp_path / "first").read_bytes() == FILES[WEIGHTS]
    assert source.latest() == (revision.id, None)

    _upload(client, bucket, checkpoint(size=9_000_000, seed=2))
    assert source.latest() != (revision.id, None)
    if versioned:
        fetch(source, revision, weights, tmp_path / "again", progress=lambda count: None)
        assert (tmp_path / "again").read_bytes() == FILES[WEIGHTS]
    else:
        with pytest.raises(SourceError, match="was changed after it was resolved"):
            fetch(source, revision, weights, tmp_path / "again", progress=lambda count: None)


def test_wrong_secrets_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SourceError, match="does not accept these credentials"):
        S3Source("plain", "models/tiny", pauses=QUICK).resolve()
