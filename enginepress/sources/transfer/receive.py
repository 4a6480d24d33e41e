"""Receives one file in one piece, in order: hashed while it arrives, resumed where it stopped, admitted by digest.

Knows nothing of any protocol: a source gives `receive` a function that starts sending at an offset. The hashes follow the
contiguous bytes that were written, so nothing is read twice, and only the digest that the source published admits the
file.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from enginepress.errors import SourceError
from enginepress.sources import Body, CheckpointSource, Interrupted, PlacingSource, Progress, RemoteFile, Revision
from enginepress.sources.transfer.hashes import MISMATCH, FileHash

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, counted anew whenever bytes have arrived."""

MAX_READ_BYTES = 64 * 1024 * 1024

Request = Callable[[int, int], AbstractContextManager[Body]]
"""Asks for a range of a file, from start to stop; raises Interrupted, also while its blocks are read."""


def read_file(file: RemoteFile, request: Request, *, where: str, pauses: Sequence[float] = PAUSES) -> bytes:
    """One small file, verified.

    Raises:
        SourceError: as `receive`, and if the file is too large for what it should be.
    """
    if file.size > MAX_READ_BYTES:
        raise SourceError(f"has {file.size:,} bytes, too many for what it should be", where=where)
    out = io.BytesIO()
    receive(file, request, out, where=where, progress=lambda count: None, pauses=pauses)
    return out.getvalue()


def receive(
    file: RemoteFile,
    request: Request,
    out: BinaryIO,
    *,
    where: str,
    progress: Progress,
    pauses: Sequence[float] = PAUSES,
    mismatch: tuple[str, str] = MISMATCH,
) -> str:
    """Writes the whole file to `out`, which is empty, and returns its sha256 (hex).

    Raises:
        SourceError: if the connection keeps breaking, or if the bytes are not those that the source published. What was
            written must then be thrown away.
    """
    hashes = FileHash(file)
    furthest = failures = 0
    while True:
        try:
            with request(hashes.size, file.size) as body:
                if body.start != hashes.size:
                    out.seek(0)
                    out.truncate()
                    hashes = FileHash(file)
                for block in body.blocks:
                    hashes.update(block)
                    if hashes.size > file.size:
                        raise SourceError(f"has more than the {file.size:,} bytes that its source published", where=where)
                    out.write(block)
                    if hashes.size > furthest:
                        progress(hashes.size - max(furthest, hashes.size - len(block)))
                        furthest, failures = hashes.size, 0
            if hashes.size == file.size:
                break
            raise Interrupted("the answer ended early")
        except Interrupted as error:
            failures += 1
            if failures > len(pauses):
                raise SourceError(
                    f"could not be fetched, {furthest:,} of {file.size:,} bytes arrived, last: {error}",
                    where=where,
                    fix="run again when the connection is better; files that are complete are not fetched again",
                ) from None
            time.sleep(max(pauses[failures - 1], error.wait or 0))
    hashes.check(where, mismatch)
    return hashes.sha256


def fetch(
    source: CheckpointSource,
    revision: Revision,
    file: RemoteFile,
    target: Path,
    *,
    progress: Progress,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Writes one file to `target`, which does not exist, verified and synced; returns its sha256 (hex).

    Raises:
        SourceError: as `receive`. Nothing is left then.
    """
    with open(target, "xb") as out:
        try:
            sha256 = receive(
                file,
                lambda start, stop: source.open_range(revision, file, start, stop),
                out,
                where=source.where(revision, file),
                progress=progress,
                pauses=pauses,
                mismatch=source.mismatch if isinstance(source, PlacingSource) else MISMATCH,
            )
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return sha256
