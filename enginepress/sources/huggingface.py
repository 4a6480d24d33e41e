"""`hf://org/name[@revision]`: a repository on a Hugging Face hub, pinned to one commit.

One request tells the commit of a branch or tag and every file's size and digest. What a commit holds never changes, so
its revision is kept in the cache: a branch that did not move costs that one request, and a full commit id costs none and
needs no network.

    cache/hub/<sha256 of hub, repository, commit, choices>.json     a Revision as JSON

Files of LFS are verified against their published sha256, all others against git's blob sha1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import SourceError
from enginepress.files import check_relative
from enginepress.sources import Body, Digest, RemoteFile, Revision
from enginepress.sources.hub_client import HubClient, endpoint_from_environment
from enginepress.sources.revision_cache import RevisionCache
from enginepress.sources.selection import select
from enginepress.sources.transfer import PAUSES, HttpClient, public_address, read_file

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HuggingFaceSource:
    """One repository of a hub. HF_ENDPOINT names another hub or a mirror.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit.
        token_reference: `${NAME}` of the variable that holds the token, or None for HF_TOKEN or a stored login.
        cache: folder for what is known of commits, or None.
        pauses: seconds before each further attempt at a file.
    """

    def __init__(
        self,
        repo: str,
        revision: str = "main",
        *,
        token_reference: str | None = None,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        cache: Path | None = None,
        pauses: Sequence[float] = PAUSES,
        http: HttpClient | None = None,
    ) -> None:
        self.repo = repo
        self.revision = revision
        self._choices = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        self._pauses = pauses
        self._endpoint = endpoint_from_environment()
        self._client = HubClient(self._endpoint, repo, token_reference=token_reference, pauses=pauses[:3], http=http)
        self._cache = RevisionCache(cache, "hub", [self._endpoint, repo, self._choices])

    @property
    def uri(self) -> str:
        return f"hf://{self.repo}"

    def resolve(self) -> Revision:
        """The commit that the revision names now, and its files. See CheckpointSource.resolve."""
        if _COMMIT.fullmatch(self.revision) and (known := self._cache.find(self.revision)) is not None:
            return known
        info = self._client.json("revision", self.revision, blobs="true")
        commit = info.get("sha") if isinstance(info, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise self._not_understood("names no commit")
        if _COMMIT.fullmatch(self.revision) and commit != self.revision:
            raise self._not_understood(f"names the commit {commit} when it was asked for {self.revision}")
        if (known := self._cache.find(commit)) is not None:
            return known
        revision = self._select(commit, self._files(commit, info.get("siblings")))
        self._cache.keep(revision)
        return revision

    def latest(self, etag: str | None = None) -> tuple[str | None, str | None]:
        """See PeekingSource. A commit is what it is: nobody is asked."""
        return (self.revision, None) if _COMMIT.fullmatch(self.revision) else self._client.commit(self.revision, etag)

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file, verified. See CheckpointSource.read."""
        file = revision.file(path)
        return self._read(revision.id, file)

    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]:
        """Bytes of one file at its commit. See CheckpointSource.open_range."""
        return self._client.file(revision.id, file.path, start, stop, file.size)

    def abort(self) -> None:
        self._client.http.abort()

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return f"{self.uri}@{revision.id[:12]}/{file.path}"

    def _read(self, commit: str, file: RemoteFile) -> bytes:
        where = f"{self.uri}@{commit[:12]}/{file.path}"
        return read_file(
            file, lambda a, b: self._client.file(commit, file.path, a, b, file.size), where=where, pauses=self._pauses
        )

    # What the hub says about a commit ---------------------------------------------------------------------------------

    def _files(self, commit: str, siblings: Any) -> dict[str, RemoteFile]:
        """All files of a commit. Mirrors that publish no digests with the commit are asked for the tree."""
        if not isinstance(siblings, list):
            raise self._not_understood("lists no files")
        try:
            return self._listed([_from_sibling(s) for s in siblings])
        except (KeyError, TypeError, ValueError, AttributeError):
            tree = self._client.listing("tree", commit, recursive="true")
        try:
            return self._listed([_from_tree(e) for e in tree if e["type"] == "file"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._not_understood("publishes no size and digest of each file, so nothing could be verified") from None

    def _listed(self, files: list[RemoteFile]) -> dict[str, RemoteFile]:
        for file in files:
            check_relative(file.path)
        if len({file.path for file in files}) != len(files):
            raise self._not_understood("lists a file twice")
        return {file.path: file for file in files}

    def _select(self, commit: str, files: Mapping[str, RemoteFile]) -> Revision:
        selection = select(
            {path: file.size for path, file in files.items()},
            read=lambda path: self._read(commit, files[path]),
            where=f"{self.uri}@{self.revision}",
            **self._choices,
        )
        return Revision(self.uri, commit, tuple(files[path] for path in selection.files), selection.unused)

    def _not_understood(self, problem: str) -> SourceError:
        return SourceError(
            f"the hub's answer {problem}", where=f"{public_address(self._endpoint)}/{self.repo}", fix="check HF_ENDPOINT"
        )


def _from_sibling(entry: Mapping[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs")
    if lfs:
        return _remote(entry["rfilename"], lfs["size"], "sha256", lfs["sha256"])
    return _remote(entry["rfilename"], entry["size"], "git-sha1", entry["blobId"])


def _from_tree(entry: Mapping[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs")
    if lfs:
        return _remote(entry["path"], lfs["size"], "sha256", lfs["oid"].removeprefix("sha256:"))
    return _remote(entry["path"], entry["size"], "git-sha1", entry["oid"])


def _remote(path: Any, size: Any, algorithm: Literal["sha256", "git-sha1"], digest: Any) -> RemoteFile:
    """Raises ValueError unless these are a path, a size and a digest."""
    pattern = r"[0-9a-f]{64}" if algorithm == "sha256" else r"[0-9a-f]{40}"
    if not isinstance(path, str) or type(size) is not int or size < 0 or not re.fullmatch(pattern, digest):
        raise ValueError("not a file's entry")
    return RemoteFile(path, size, Digest(algorithm, digest))
