"""Digests of a file and of its pieces, taken in one pass.

A server that compares the sha256 of what arrives, piece by piece, proves with it that the whole file is the one that was hashed
here, so that publishing need not hash it once more. The pieces are the parts in which `enginepress.stores.s3` sends.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.files import FileEntry, hash_file, read_into, walk_files

PIECE_BYTES = 16 * 1024 * 1024
_FILES_AT_ONCE = 4
_IN_FLIGHT = 2
"""Buffers of a file: one is filled while the one before is hashed."""


@dataclass(frozen=True)
class Pieces:
    """sha256 (hex) of each `size` bytes of a file, the last piece shorter."""

    size: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Digests:
    """
    Attributes:
        size: bytes.
        sha256: of the whole file, hex.
        pieces: None for a file of no more than one.
    """

    size: int
    sha256: str
    pieces: Pieces | None

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path, self.size, self.sha256)


def digests_of_folder(folder: Path) -> dict[str, Digests]:
    """Of every file, by path, several files at a time.

    Raises:
        UnsafePathError: for a symbolic link that leads out of the folder.
    """
    paths = list(walk_files(folder))
    at_once = min(_FILES_AT_ONCE, os.cpu_count() or 1)
    with ThreadPoolExecutor(at_once) as files, ThreadPoolExecutor(at_once) as pieces:
        return dict(zip(paths, files.map(lambda path: digests_of_file(folder / path, pieces), paths), strict=True))


def digests_of_file(path: Path, pool: ThreadPoolExecutor) -> Digests:
    """Reads a file once; takes at most two pieces' memory.

    Args:
        pool: hashes pieces while the whole goes on.
    """
    size = path.stat().st_size
    if size <= PIECE_BYTES:
        return Digests(size, hash_file(path), None)
    whole, size, pieces = hashlib.sha256(), 0, []
    under_way: deque[tuple[Future[str], bytearray]] = deque()
    with open(path, "rb", buffering=0) as stream:
        while True:
            if len(under_way) < _IN_FLIGHT:
                buffer = bytearray(PIECE_BYTES)
            else:
                piece, buffer = under_way.popleft()
                pieces.append(piece.result())
            count = read_into(stream, memoryview(buffer))
            if not count:
                break
            view = memoryview(buffer)[:count]
            under_way.append((pool.submit(_sha256, view), buffer))
            whole.update(view)
            size += count
    pieces += [piece.result() for piece, _ in under_way]
    return Digests(size, whole.hexdigest(), Pieces(PIECE_BYTES, tuple(pieces)))


def as_record(digests: Mapping[str, Digests]) -> dict[str, Any]:
    """The pieces of every file that has some, for a step's record."""
    return {path: [d.pieces.size, *d.pieces.sha256] for path, d in digests.items() if d.pieces is not None}


def from_record(record: Mapping[str, Any]) -> dict[str, Pieces]:
    """What `as_record` made. Records of earlier versions hold none."""
    return {path: Pieces(size, tuple(sha256)) for path, (size, *sha256) in record.items()}


def _sha256(view: memoryview) -> str:
    return hashlib.sha256(view).hexdigest()
