"""A file and its pieces are hashed in one pass."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginepress import pieces
from enginepress.files import hash_folder
from enginepress.pieces import Pieces, as_record, digests_of_file, digests_of_folder, from_record


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@given(data=st.binary(max_size=700), size=st.integers(1, 100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_the_slices_of_the_file_and_the_whole_is_the_file(tmp_path: Path, data: bytes, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(pieces, "PIECE_BYTES", size)
        found = digests_of_file(path, pool)
    assert (found.size, found.sha256) == (len(data), _sha256(data))
    slices = tuple(_sha256(data[at : at + size]) for at in range(0, len(data), size))
    assert found.pieces == (Pieces(size, slices) if len(data) > size else None)


def test_a_folder_has_the_digests_that_its_files_have_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    for number in range(12):
        path = tmp_path / str(number % 3) / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * number * 400)
    found = digests_of_folder(tmp_path)
    assert tuple(digests.entry(path) for path, digests in found.items()) == hash_folder(tmp_path)
    assert {path for path, digests in found.items() if digests.pieces is None} == {"0/0.bin", "1/1.bin", "2/2.bin"}


def test_a_record_keeps_the_pieces_of_files_that_have_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10)
    (tmp_path / "small").write_bytes(b"0123456789")
    (tmp_path / "large").write_bytes(b"0123456789a")
    found = digests_of_folder(tmp_path)
    kept = json.loads(json.dumps(as_record(found)))
    assert from_record(kept) == {"large": Pieces(10, (_sha256(b"0123456789"), _sha256(b"a")))}
