from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.stores.s3 import S3Store
from tests.s3_server import S3Server
from tests.s3_server.fixtures import server_in_environment
from tests.stores.parts import make_source
from tests.stores.s3.stores import a_store

pytest.importorskip("boto3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with server_in_environment(monkeypatch) as running:
        yield running


@pytest.fixture
def store(server: S3Server) -> S3Store:
    return a_store()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")
