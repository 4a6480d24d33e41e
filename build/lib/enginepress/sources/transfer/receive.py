"""Receives one file in one piece, in order: hashed while it arrives, resumed where it stopped, admitted by digest.

Knows nothing of any protocol: a source gives `receive` a function that opens a range. The hashes follow the contiguous
bytes that were written, so nothing is read twice, and only the digest that the source published admits the file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import IO

from enginepress.errors import SourceError
from enginepress.sources import Body, Interrupted, Progress, RemoteFile
from enginepress.sources.transfer.hashes import MISMATCH, FileHash
from enginepress.sources.transfer.pace import PAUSES, PROGRESS_BYTES, Bandwidth, Trickle, pause_before

MAX_READ_BYTES = 64 * 1024 * 1024

Request = Callable[[int, int], AbstractContextManager[Body]]
"""Asks for a range of a file, from start to stop; raises Interrupted, also while its blocks are read."""


class Stopped(Exception):
    """The download was given up, so this file is too."""


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
    out: IO[bytes],
    *,
    where: str,
    progress: Progress,
    pauses: Sequence[float] = PAUSES,
    mismatch: tuple[str, str] = MISMATCH,
    bandwidth: Bandwidth | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Writes the whole file to `out`, which is empty, and returns its sha256 (hex).

    Raises:
        SourceError: if the connection keeps breaking, or if the bytes are not those that the source published. What was
            written must then be thrown away.
        Stopped: if `stop` was set.
    """
    stop = stop or threading.Event()
    hashes = FileHash(file)
    furthest = failures = brought = 0
    version: str | None = None
    while True:
        try:
            with request(hashes.size, file.size) as body:
                # A server that ignores ranges begins anew; and another version is another file.
                if body.start != hashes.size or (body.version or version) != (version or body.version):
                    hashes = _begin_anew(file, out)
                version = body.version
                if body.start != hashes.size:
                    raise Interrupted("the file changed while it was fetched")
                trickle = Trickle()
                for block in body.blocks:
                    if stop.is_set():
                        raise Stopped
                    if bandwidth is not None:
                        bandwidth.spend(len(block))
                    hashes.update(block)
                    if hashes.size > file.size:
                        raise SourceError(f"has more than the {file.size:,} bytes that its source published", where=where)
                    _write_all(out, block)
                    if hashes.size > furthest:
                        new = hashes.size - max(furthest, hashes.size - len(block))
                        progress(new)
                        furthest, brought = hashes.size, brought + new
                        if brought >= PROGRESS_BYTES:
                            failures = brought = 0
                    if trickle.is_stalled(len(block)):
                        raise Interrupted("almost nothing arrives")
            if hashes.size == file.size:
                break
            raise Interrupted("the answer ended early")
        except Interrupted as error:
            if failures >= len(pauses):
                raise could_not_be_fetched(file, furthest, error, where) from None
            seconds = pause_before(failures, pauses, error.wait)
            failures += 1
            if stop.wait(seconds):
                raise Stopped from None
    hashes.check(where, mismatch)
    return hashes.sha256


def could_not_be_fetched(file: RemoteFile, arrived: int, last: Interrupted, where: str) -> SourceError:
    return SourceError(
        f"could not be fetched, {arrived:,} of {file.size:,} bytes arrived, last: {last}",
        where=where,
        fix="run again when the connection is better; what has arrived is not fetched again",
    )


def _begin_anew(file: RemoteFile, out: IO[bytes]) -> FileHash:
    out.seek(0)
    out.truncate()
    return FileHash(file)


def _write_all(out: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[out.write(view) :]
