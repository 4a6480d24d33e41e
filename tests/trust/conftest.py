from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.stores.filesystem import FileStore
from tests.stores.parts import key, make_source, publish
from tests.trust.keys import KeyPair, write_pair


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """A store with releases 1 and 2."""
    made = FileStore(tmp_path / "store")
    publish(made, make_source(tmp_path / "one"), key("a"))
    publish(made, make_source(tmp_path / "two", weights=b"other"), key("b"))
    return made


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path / "keys", "release")
