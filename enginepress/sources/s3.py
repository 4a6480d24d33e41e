"""`s3://bucket/folder`: a checkpoint in the object store of any S3-compatible server.

A folder of objects has no commits, so its id is a digest over what the server lists: each object's name, size and ETag.
A listing is one request a thousand objects; as long as it says the same, nothing else is asked.

    cache/s3/<sha256 of server, bucket, folder, listing, choices>.json       a Revision as JSON

Where the bucket keeps versions, the version ids are part of the revision, and later writers change nothing. Elsewhere an
object is only taken while it still has the ETag that was listed. It is verified against the sha256 that the server has of
it, else against its MD5 (the ETag of an upload in one part). Of an upload in parts the server knows neither: what comes is
compared with the CRC that it keeps, if it keeps one, and the sha256 of what came first is demanded from then on
(`enginepress.sources.seen`). `source.digests` settles it from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from enginepress.canonical import json_digest
from enginepress.errors import SourceError
from enginepress.files import check_relative
from enginepress.s3_access import S3Settings
from enginepress.sources import Body, Digest, RemoteFile, Revision
from enginepress.sources.revision_cache import RevisionCache
from enginepress.sources.s3_client import Listed, ObjectHead, S3Client
from enginepress.sources.selection import select
from enginepress.sources.transfer import PAUSES, read_file

_HEADS_AT_ONCE = 16
_BY_ETAG = "etag:"


class S3Source:
    """One folder of a bucket.

    Args:
        prefix: the folder, without a slash at its end; "" for the whole bucket.
        digests: sha256 of files by path, for files of which the server has none.
        cache: folder for what is known of listings, or None.
        pauses: seconds before each further attempt at a file.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        settings: S3Settings | None = None,
        digests: Mapping[str, str] | None = None,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        cache: Path | None = None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._folder = f"{prefix}/" if prefix else ""
        self._digests = dict(digests or {})
        self._choices = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        self._pauses = pauses
        self._client = S3Client(bucket, settings or S3Settings(), pauses=pauses[:3])
        self._cache = RevisionCache(cache, "s3", [self._client.endpoint, self.uri, self._choices, self._digests])

    def resolve(self) -> Revision:
        """The folder as it is now. See CheckpointSource.resolve."""
        listed = self._list()
        identity = listing_id(listed)
        # The same bytes, uploaded again, are the same revision with other versions, and the old ones may be removed.
        written = json_digest([identity, [[path, entry.modified] for path, entry in sorted(listed.items())]])
        if (known := self._cache.find(written)) is not None:
            return known
        files = {path: _provisional(path, entry) for path, entry in listed.items()}
        selection = select(
            {path: entry.size for path, entry in listed.items()},
            read=lambda path: self._read(files[path]),
            where=self.uri,
            **self._choices,
        )
        with ThreadPoolExecutor(_HEADS_AT_ONCE, thread_name_prefix="s3-head") as pool:
            chosen = tuple(pool.map(lambda path: self._file(path, listed[path]), selection.files))
        revision = Revision(self.uri, identity, chosen, selection.unused)
        self._cache.keep(revision, known_as=written)
        return revision

    def latest(self, etag: str | None = None) -> tuple[str | None, str | None]:
        """See PeekingSource. One request a thousand objects; listings have no ETag."""
        return listing_id(self._list()), None

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file, verified. See CheckpointSource.read."""
        file = revision.file(path)
        return self._read(file)

    @contextmanager
    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> Iterator[Body]:
        """Bytes of the version that was resolved, and of no other. See CheckpointSource.open_range."""
        with self._open(file, start, stop) as body:
            yield body

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return f"{self.uri}/{file.path}"

    def _open(self, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]:
        by_etag = file.version.startswith(_BY_ETAG)
        return self._client.open_range(
            self._folder + file.path,
            start,
            stop,
            version="" if by_etag else file.version,
            etag=file.version.removeprefix(_BY_ETAG) if by_etag else "",
        )

    def _read(self, file: RemoteFile) -> bytes:
        return read_file(
            file, lambda start, stop: self._open(file, start, stop), where=f"{self.uri}/{file.path}", pauses=self._pauses
        )

    # What the server says ---------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, Listed]:
        found: dict[str, Listed] = {}
        for entry in self._client.list(self._folder):
            if not entry.key.startswith(self._folder):
                raise SourceError(f"the server lists {entry.key!r}, which was not asked for", where=self.uri)
            found[check_relative(entry.key.removeprefix(self._folder))] = entry
        if not found:
            raise SourceError("holds no objects, or does not exist", where=self.uri, fix="check `source.uri`")
        return found

    def _file(self, path: str, listed: Listed) -> RemoteFile:
        head = self._client.head(self._folder + path)
        if (head.size, head.etag) != (listed.size, listed.etag):
            raise SourceError(
                "is being changed", where=f"{self.uri}/{path}", fix="let whoever writes the folder finish, then run again"
            )
        digest = self._digest(path, head)
        checksum = head.checksum if digest.algorithm == "none" else ""
        return RemoteFile(path, head.size, digest, head.version or _BY_ETAG + head.etag, checksum)

    def _digest(self, path: str, head: ObjectHead) -> Digest:
        pinned = self._digests.get(path)
        if head.sha256 and pinned and head.sha256 != pinned:
            raise SourceError(
                f"has sha256 {head.sha256}, the recipe's source.digests demands {pinned}",
                where=f"{self.uri}/{path}",
                fix="find out which is right before you change the recipe",
            )
        if head.sha256 or pinned:
            return Digest("sha256", head.sha256 or pinned or "")
        if head.md5:
            return Digest("md5", head.md5)
        return Digest("none", json_digest([self.uri, path, head.size, head.etag, head.version]))


def listing_id(listed: Mapping[str, Listed]) -> str:
    """A digest over what a server lists: it changes when an object is written, added or removed."""
    return json_digest([[path, entry.size, entry.etag] for path, entry in sorted(listed.items())])


def _provisional(path: str, entry: Listed) -> RemoteFile:
    """An object that is read before it is known more of it than its listing: the index of the weights."""
    return RemoteFile(path, entry.size, Digest("none", json_digest([path, entry.size, entry.etag])), _BY_ETAG + entry.etag)
