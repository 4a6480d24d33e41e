"""`hf://org/name[@revision]` without a network: a repository as huggingface_hub's cache on this machine holds it.

    <cache>/models--org--name/refs/<branch, tag or PR ref>       the commit
                              snapshots/<commit>/<path>          a link to ../../blobs/<ETag>
                              blobs/<ETag>                       the bytes; the ETag is their sha256, or git's blob sha1

The names of the blobs are what the hub published, so the files are verified just as if they came from it, and the revision
is the one that the hub would give: whoever builds offline gets the same build key.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

from enginepress.errors import SourceError
from enginepress.sources import Body, Digest, RemoteFile, Revision
from enginepress.sources.local import LocalSource
from enginepress.sources.selection import select
from enginepress.sources.transfer import read_file

_COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_folder() -> Path:
    """Where huggingface_hub keeps its cache, by the variables that it reads."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(value).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def find_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of a revision in the cache, or None. `revision` is checked to be one, so it has no `..`."""
    folder = cache_folder() / ("models--" + repo.replace("/", "--"))
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


class HubCacheSource:
    """A snapshot in huggingface_hub's cache.

    Args:
        repo: `org/name`.
        snapshot: its folder.
    """

    mismatch = (
        "is damaged in the cache of huggingface_hub",
        "remove the file there and fetch it again: `hf download` without HF_HUB_OFFLINE",
    )

    def __init__(self, repo: str, snapshot: Path, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> None:
        self.repo = repo
        self._snapshot = snapshot
        self._choices = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        self._local = LocalSource(snapshot)

    @property
    def uri(self) -> str:
        return f"hf://{self.repo}"

    def resolve(self) -> Revision:
        """The snapshot's commit and files. See CheckpointSource.resolve."""
        files = {path: self._described(path) for path in _listed(self._snapshot)}
        selection = select(
            {path: file.size for path, file in files.items()},
            read=lambda path: self._read(files[path]),
            where=f"{self.uri} in {self._snapshot}",
            **self._choices,
        )
        return Revision(self.uri, self._snapshot.name, tuple(files[path] for path in selection.files), selection.unused)

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file, verified. See CheckpointSource.read."""
        file = revision.file(path)
        return self._read(file)

    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]:
        return self._local.open_range(revision, file, start, stop)

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return str(self._snapshot / file.path)

    def place(self, revision: Revision, file: RemoteFile, target: Path) -> bool:
        return self._local.place(revision, file, target)

    def _read(self, file: RemoteFile) -> bytes:
        revision = Revision(self.uri, self._snapshot.name, (file,))
        return read_file(
            file, lambda start, stop: self.open_range(revision, file, start, stop), where=self.where(revision, file), pauses=()
        )

    def _described(self, path: str) -> RemoteFile:
        """A file with the digest that its blob is named by."""
        real = self._local.contained(path)
        link = self._snapshot / path
        name = Path(os.readlink(link)).name if link.is_symlink() else ""
        size = real.stat().st_size
        if re.fullmatch(r"[0-9a-f]{64}", name):
            return RemoteFile(path, size, Digest("sha256", name))
        if re.fullmatch(r"[0-9a-f]{40}", name):
            return RemoteFile(path, size, Digest("git-sha1", name))
        raise SourceError(
            "lies in the cache of huggingface_hub as a plain file, so nobody knows what its digest should be",
            where=str(link),
            fix=f"if you trust it, name the folder itself: file://{self._snapshot}",
        )


def _listed(folder: Path) -> list[str]:
    """Relative paths of all files under a snapshot. Where each link leads is checked when it is followed."""
    found = []
    for base, _, names in os.walk(folder, followlinks=False):
        found += [Path(base, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)
