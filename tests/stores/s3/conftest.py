from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.stores.s3 import S3Store
from tests.s3_server import S3Server
from tests.stores.parts import make_source
from tests.stores.s3.stores import a_store

pytest.importorskip("boto3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server() as running:
        running.add("bucket", {})
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(server: S3Server) -> S3Store:
    return a_store()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")
