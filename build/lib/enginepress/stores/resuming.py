"""Copies one file of a release and can go on where a killed copy stopped.

What stands in the target is taken for the beginning of the file: it is read, hashed, and the rest appended. Only the digest of
all bytes admits the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from enginepress.files import CHUNK_BYTES, FileEntry
from enginepress.stores.store import Progress, damaged_file


def resume_copy(source: Path, entry: FileEntry, target: Path, *, progress: Progress | None = None) -> None:
    """Makes `target` hold the bytes of `source`, synced.

    Args:
        target: a file that nobody else has under another name, or none.
        progress: told of bytes that were there already, too.

    Raises:
        StoreError: if the source is not what the manifest says.
        OSError: as reading and writing do.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = target.exists() and target.stat().st_size > 0
    found = _copy(source, target, progress)
    if found != (entry.size, entry.sha256) and resumed:
        # What stood there was the beginning of something else.
        target.unlink()
        found = _copy(source, target, None)
    if found != (entry.size, entry.sha256):
        target.unlink()
        raise damaged_file(str(source), entry.sha256, found[1])


def _copy(source: Path, target: Path, progress: Progress | None) -> tuple[int, str]:
    """Appends what is missing of the source. Size and sha256 of all bytes that the target holds then."""
    digest = hashlib.sha256()
    size = 0
    with open(source, "rb") as reader, open(target, "a+b") as writer:
        writer.seek(0)
        for block in _blocks(writer):
            digest.update(block)
            size += len(block)
            if progress is not None:
                progress(len(block))
        reader.seek(size)
        for block in _blocks(reader):
            digest.update(block)
            writer.write(block)
            size += len(block)
            if progress is not None:
                progress(len(block))
        writer.flush()
        os.fsync(writer.fileno())
    return size, digest.hexdigest()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(CHUNK_BYTES):
        yield block
