"""register: where a model is registered that a recipe without a registry built."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.steps.register import RECORD, registered_at
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, make_source, publish


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store, source = FileStore(tmp_path / "store"), make_source(tmp_path / "source")
    publish(store, source)
    publish(store, source)
    return store


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "sqlite:///{folder}/mlflow.db"])
def test_a_release_is_registered_where_its_record_says(store: FileStore, uri: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("")
    uri = uri.format(folder=tmp_path)
    store.write_record(MODEL, 1, RECORD, {"tracking_uri": uri})
    assert registered_at(store, MODEL, [2, 1]) == uri
    assert registered_at(store, MODEL, [2]) is None


def test_a_database_of_another_machine_counts_for_nothing(store: FileStore, tmp_path: Path) -> None:
    store.write_record(MODEL, 1, RECORD, {"tracking_uri": f"sqlite:///{tmp_path}/elsewhere/mlflow.db"})
    assert registered_at(store, MODEL, [1]) is None


def test_a_record_that_cannot_be_read_bars_no_way(store: FileStore) -> None:
    store.write_record(MODEL, 1, RECORD, {"tracking_uri": "http://mlflow:5000"})
    store.write_record(MODEL, 2, RECORD, {})
    assert registered_at(store, MODEL, [2, 1]) == "http://mlflow:5000"
    (store.root / MODEL / "releases/2/records" / f"{RECORD}.json").write_text("{")
    assert registered_at(store, MODEL, [2, 1]) == "http://mlflow:5000"
