"""One healthy server for all tests that only ask, and a check that no test leaves anything of a server behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.serving.tritonserver import TritonServer
from tests.serving.toy_model import write_model


@pytest.fixture(scope="session")
def toy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("toy server")
    with TritonServer(write_model(folder / "models"), log=folder / "server.log", exit_timeout_s=0) as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"
