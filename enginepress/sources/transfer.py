"""Receives one file over a connection that may break: hashed while it arrives, resumed where it stopped, admitted by digest.

Knows nothing of any protocol: a source gives `receive` a function that starts sending at an offset. The hashes follow the
contiguous bytes that were written, so nothing is read twice, and only the digest that the source published admits the
file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

from enginepress.errors import SourceError
from enginepress.sources import Progress, RemoteFile

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, counted anew whenever bytes have arrived."""


class Interrupted(Exception):
    """A request failed in a way that may pass, so it is worth another try.

    Attributes:
        wait: seconds that the server asked to be left alone, or None.
    """

    def __init__(self, problem: str, *, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


@dataclass(frozen=True)
class Body:
    """What a server sends: `blocks` are the file's bytes from `start` on. A server that ignores offsets starts at 0."""

    start: int
    blocks: Iterator[bytes]


Request = Callable[[int], AbstractContextManager[Body]]
"""Asks for a file from an offset on; raises Interrupted, also while its blocks are read."""


class FileHash:
    """The hashes of a file of known size: always sha256, and git's blob sha1 where the source publishes that."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False) if _is_git(file) else None
        self.size = 0

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)
        self.size += len(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def published(self) -> str:
        """The hash of the kind that the source published."""
        return self.sha256 if self._git is None else self._git.hexdigest()

    def check(self, where: str) -> None:
        """Raises SourceError, with both digests, unless these are the bytes that the source published."""
        expected = self._file.digest
        if self.size != self._file.size or self.published != expected.value:
            raise SourceError(
                f"is not what its source published: {self.size:,} bytes with {expected.algorithm} {self.published}, "
                f"published are {self._file.size:,} bytes with {expected.value}",
                where=where,
                fix="run again to fetch it once more; if that does not help, the source or a proxy before it damages the file",
            )


def _is_git(file: RemoteFile) -> bool:
    return file.digest.algorithm == "git-sha1"


def receive(
    file: RemoteFile,
    request: Request,
    out: BinaryIO,
    *,
    where: str,
    progress: Progress,
    pauses: Sequence[float] = PAUSES,
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
            with request(hashes.size) as body:
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
    hashes.check(where)
    return hashes.sha256
