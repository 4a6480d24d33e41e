"""Files of which the source publishes no digest: what came before is gone on with only if it is surely the same file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enginepress.errors import SourceError
from enginepress.sources import Body, Digest, Interrupted, RemoteFile, Revision
from enginepress.sources.transfer import Download, PartialStore, partial

SIZE = 6_000_000
OLD, NEW = b"a" * SIZE, b"b" * SIZE
FILE = RemoteFile("model.safetensors", SIZE, Digest("none", "0" * 64))
REVISION = Revision("ngc://org/model", "1", (FILE,))


class Source:
    """One file, whose connection breaks at `cut`. A stand-in: no server of ours leaves out both ETag and date."""

    uri = REVISION.source

    def __init__(self, data: bytes, *, version: str | None = None, mark: str | None = None, cut: int = SIZE) -> None:
        self.data, self.version, self.mark, self.cut = data, version, mark, cut
        self.sent = 0

    @contextmanager
    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> Iterator[Body]:
        yield Body(start, self._blocks(start, stop), self.version, self.mark)

    def _blocks(self, start: int, stop: int) -> Iterator[bytes]:
        for at in range(start, stop, 65536):
            if at >= self.cut:
                raise Interrupted("cut")
            block = self.data[at : min(at + 65536, stop)]
            self.sent += len(block)
            yield block

    def resolve(self) -> Revision:
        return REVISION

    def read(self, revision: Revision, path: str) -> bytes:
        raise NotImplementedError

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return file.path


def _fetch(source: Source, folder: Path) -> bytes:
    Download(source, REVISION, PartialStore(folder), pauses=(0.01,)).fetch(FILE, folder / "target", lambda count: None)
    return (folder / "target").read_bytes()


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({}, {}, False),
        ({"version": '"x"'}, {"version": '"x"'}, True),
        ({"version": '"x"'}, {"version": '"y"'}, False),
        ({"version": '"x"'}, {}, False),
        ({"mark": 'W/"x"'}, {"mark": 'W/"x"'}, True),
        ({"mark": "Sat, 21 Nov 2026 12:00:10 GMT"}, {"mark": "Sat, 21 Nov 2026 12:00:11 GMT"}, False),
    ],
)
def test_a_file_without_a_digest_is_gone_on_with_only_if_it_is_marked_as_the_same(
    before: dict[str, str], after: dict[str, str], kept: bool, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="could not be fetched"):
        _fetch(Source(OLD, cut=SIZE // 2, **before), tmp_path)
    source = Source(OLD if kept else NEW, **after)
    assert _fetch(source, tmp_path) == source.data
    assert (source.sent < SIZE) == kept


def test_what_a_record_names_is_on_the_disk_where_no_digest_would_find_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses its power may keep the record and lose the bytes, and zeros of the right size are no file."""
    synced, recorded, sync, write = 0, [], os.fdatasync, partial.write_unsynced

    def syncing(handle: int) -> None:
        nonlocal synced
        synced = source.sent
        sync(handle)

    def recording(path: Path, text: str) -> None:
        spans = json.loads(text)["spans"]
        recorded.append((spans[-1][1] if spans else 0, synced))
        write(path, text)

    monkeypatch.setattr(os, "fdatasync", syncing)
    monkeypatch.setattr(partial, "write_unsynced", recording)
    source = Source(OLD, version='"x"')
    store = PartialStore(tmp_path, record_bytes=256 * 1024)
    Download(source, REVISION, store, streams=1).fetch(FILE, tmp_path / "target", lambda count: None)
    assert len(recorded) > 3
    assert all(named <= durable for named, durable in recorded)
