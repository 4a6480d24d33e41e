from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.stores.filesystem import FileStore
from tests.stores.parts import make_source


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")
