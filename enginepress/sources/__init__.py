"""Where checkpoints come from. One file a kind of source; `open_source` picks it by the URI.

A source answers three questions: which revision is that (`resolve`), what is in this small file (`read`), and give me
the bytes of this file (`fetch`, verified while they arrive).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from enginepress.canonical import json_digest

Progress = Callable[[int], None]
"""Called with the number of bytes that have just arrived."""


@dataclass(frozen=True)
class Digest:
    """What the source publishes for a file: sha256 of the bytes, or git's blob sha1 (hex)."""

    algorithm: Literal["sha256", "git-sha1"]
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """One file of a revision. `path` is relative, POSIX, checked to stay in its folder; `size` in bytes."""

    path: str
    size: int
    digest: Digest


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

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "id": self.id,
            "files": [{"path": f.path, "size": f.size, f.digest.algorithm: f.digest.value} for f in self.files],
            "unused": list(self.unused),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Revision:
        def remote(entry: Mapping[str, Any]) -> RemoteFile:
            algorithm: Literal["sha256", "git-sha1"] = "sha256" if "sha256" in entry else "git-sha1"
            return RemoteFile(entry["path"], entry["size"], Digest(algorithm, entry[algorithm]))

        return Revision(data["source"], data["id"], tuple(remote(f) for f in data["files"]), tuple(data.get("unused", ())))


class CheckpointSource(Protocol):
    """One checkpoint at one source."""

    def resolve(self) -> Revision:
        """Which revision the URI means now, with the files that a build needs.

        Raises:
            SourceError: not there, no access, no safetensors, missing tokenizer or config, shard missing.
        """

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file (config.json, an index), verified against its digest."""

    def fetch(self, revision: Revision, file: RemoteFile, target: Path, progress: Progress) -> str:
        """Writes one file to `target` (which does not exist), verified and synced; returns its sha256 (hex)."""
