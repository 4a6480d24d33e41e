"""Where checkpoints come from. One file a kind of source; `open_source` picks it by the URI.

A source answers three questions: which revision is that (`resolve`), what is in this small file (`read`), and give me
these bytes of this file (`open_range`). Everything else about bytes is done once, for all sources, by
`enginepress.sources.transfer`: several ranges at a time, trying again, resuming, hashing, admitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from enginepress.canonical import json_digest
from enginepress.errors import SourceError

Progress = Callable[[int], None]
"""Called with the number of bytes that have just arrived."""

Algorithm = Literal["sha256", "git-sha1", "md5", "none"]


@dataclass(frozen=True)
class Digest:
    """What the source publishes for a file.

    Attributes:
        algorithm: sha256 or md5 of the bytes, git's blob sha1, or "none" where the source publishes nothing that could be
            recomputed.
        value: hex. With "none": a sha256 over whatever tells this version of the file from others (an ETag, a version's id).
            Only the size is compared then; the sha256 of what came stands in the checkpoint's record.
    """

    algorithm: Algorithm
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """One file of a revision. `path` is relative, POSIX, checked to stay in its folder; `size` in bytes.

    Attributes:
        version: what the source must be told to give exactly this file, where path and revision do not say it (S3).
        checksum: a CRC that the source keeps of it, where its digest is "none" (`transfer.checksums` has the form), or "". It is
            compared, and identifies nothing.
    """

    path: str
    size: int
    digest: Digest
    version: str = ""
    checksum: str = ""

    def to_json(self) -> dict[str, Any]:
        entry = {"path": self.path, "size": self.size, self.digest.algorithm: self.digest.value}
        more = {"version": self.version, "checksum": self.checksum}
        return {**entry, **{name: value for name, value in more.items() if value}}


@dataclass(frozen=True)
class Revision:
    """What a source resolved to: immutable.

    Attributes:
        source: the URI without its revision.
        id: the commit (hf), or the digest itself (file).
        files: the files that the build needs, sorted by path, and no others.
        unused: paths that the source has and the build does not need (shown, never fetched).
    """

    source: str
    id: str
    files: tuple[RemoteFile, ...]
    unused: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 over the selected files' paths, sizes and digests: the same bytes give the same build."""
        return json_digest([[f.path, f.size, f.digest.algorithm, f.digest.value] for f in self.files])

    def file(self, path: str) -> RemoteFile:
        """The file of this path.

        Raises:
            SourceError: if a build does not need it.
        """
        for file in self.files:
            if file.path == path:
                return file
        raise SourceError("is not among the files that a build needs", where=f"{self.source}/{path}")

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "id": self.id,
            "files": [f.to_json() for f in self.files],
            "unused": list(self.unused),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Revision:
        def remote(entry: Mapping[str, Any]) -> RemoteFile:
            algorithm: Algorithm = next(a for a in get_args(Algorithm) if a in entry)
            digest = Digest(algorithm, entry[algorithm])
            return RemoteFile(entry["path"], entry["size"], digest, entry.get("version", ""), entry.get("checksum", ""))

        return Revision(data["source"], data["id"], tuple(remote(f) for f in data["files"]), tuple(data.get("unused", ())))


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
    """What a server sends.

    Attributes:
        start: where in the file the first block belongs. A server that ignores ranges sends the whole file: 0.
        blocks: the bytes, up to the asked end or further; iterating raises Interrupted when the connection breaks.
        version: the ETag of this answer, if it has a strong one. When it changes, the file did, and is fetched anew.
        mark: a weak ETag or a date of change, where no digest was published and so everything that may tell is needed.
    """

    start: int
    blocks: Iterator[bytes]
    version: str | None = None
    mark: str | None = None


class CheckpointSource(Protocol):
    """One checkpoint at one source. All methods may be called from several threads at a time.

    Attributes:
        uri: the source without its revision, as its revisions name it.
    """

    @property
    def uri(self) -> str: ...

    def resolve(self) -> Revision:
        """Which revision the URI means now, with the files that a build needs.

        Raises:
            SourceError: not there, no access, no safetensors, missing tokenizer or config, shard missing.
        """

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file (config.json, an index), verified against its digest: `transfer.read_file` does it."""

    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]:
        """Bytes `start` to `stop` (exclusive) of a file, in one request. A whole file is 0 to its size.

        Raises:
            Interrupted: if another try may help; on entering, or while the blocks are read.
            SourceError: if it will not.
        """

    def where(self, revision: Revision, file: RemoteFile) -> str:
        """How messages name this file. Holds nothing secret."""


@runtime_checkable
class PlacingSource(Protocol):
    """A source whose files may be had without moving their bytes.

    Attributes:
        mismatch: what it means when a file's bytes are not the resolved ones, and what to do then.
    """

    mismatch: tuple[str, str]

    def place(self, revision: Revision, file: RemoteFile, target: Path) -> bool:
        """Shares the file's blocks with `target`, which does not exist, or links it; False if that cannot be done here.

        What was placed is hashed and compared like what was fetched.
        """


@runtime_checkable
class AbortingSource(Protocol):
    """A source that can end what is under way, so that nobody waits for a server that stands still."""

    def abort(self) -> None:
        """Ends every request under way, and all that come after: they meet Interrupted. From any thread."""


@runtime_checkable
class PeekingSource(Protocol):
    """A source that tells for one small request what it would resolve to now."""

    def latest(self, etag: str | None = None) -> tuple[str | None, str | None]:
        """The id of the present revision, and the ETag of the answer if it has one.

        Args:
            etag: of an earlier answer. If nothing has changed since, this is (None, etag).

        Raises:
            SourceError: as `CheckpointSource.resolve`.
        """
