"""The hashes of one file, and the comparison that admits it."""

from __future__ import annotations

import hashlib

from enginepress.errors import SourceError
from enginepress.sources import RemoteFile
from enginepress.sources.transfer.checksums import Checksum

MISMATCH = (
    "is not what its source published",
    "run again to fetch it once more; if that does not help, the source or a proxy before it damages the file",
)


class FileHash:
    """The hashes of a file of known size: always sha256, and what else the source publishes."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._other = _other_hash(file)
        self._checksum = _checksum(file)
        self.size = 0

    def update(self, block: bytes | memoryview) -> None:
        self._sha256.update(block)
        if self._other is not None:
            self._other.update(block)
        if self._checksum is not None:
            self._checksum.update(block)
        self.size += len(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def published(self) -> str:
        """The hash of the kind that the source published."""
        return self.sha256 if self._other is None else self._other.hexdigest()

    def matches(self) -> bool:
        """Whether these are the bytes that the source published."""
        expected = self._file.digest
        whole = self.size == self._file.size and (expected.algorithm == "none" or self.published == expected.value)
        return whole and (self._checksum is None or self._checksum.matches())

    def check(self, where: str, mismatch: tuple[str, str] = MISMATCH) -> None:
        """Raises SourceError, with both digests, unless these are the bytes that the source published.

        Args:
            mismatch: what the error says, and what to do.
        """
        if self.matches():
            return
        expected, checksum = self._file.digest, self._checksum
        kind: str = expected.algorithm
        value, wanted = self.published, expected.value
        if expected.algorithm == "none" and checksum is not None:
            kind, value, wanted = checksum.kind, checksum.value, checksum.wanted
        raise SourceError(
            f"{mismatch[0]}: it has {self.size:,} bytes with {kind} {value}, and should have {self._file.size:,} with {wanted}",
            where=where,
            fix=mismatch[1],
        )


def _other_hash(file: RemoteFile) -> hashlib._Hash | None:
    if file.digest.algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    if file.digest.algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return None


def _checksum(file: RemoteFile) -> Checksum | None:
    """What was resolved on another machine may be of a kind that only that one can compute."""
    try:
        return Checksum(file.checksum) if file.checksum else None
    except ValueError:
        return None
