"""`ngc://org[/team]/name[:version]`: a version of a model in NVIDIA's NGC.

A version that is complete does not change, so what is known of it is kept, and a named version then costs no request;
without a version the model's latest one is taken, which costs one.

    cache/ngc/<sha256 of NGC's address, model, version, choices>.json       a Revision as JSON

NGC lists a sha256 of each file, though not of all that were uploaded long ago. Such files are known by what else NGC says of
them until they have been fetched once; from then on the sha256 of what came is demanded (`enginepress.sources.seen`).
`source.digests` in the recipe settles it from the start.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginepress.canonical import json_digest
from enginepress.errors import SourceError
from enginepress.files import check_relative
from enginepress.sources import Body, Digest, RemoteFile, Revision
from enginepress.sources.ngc_client import NgcClient
from enginepress.sources.revision_cache import RevisionCache
from enginepress.sources.selection import select
from enginepress.sources.transfer import PAUSES, HttpClient, read_file


class NgcSource:
    """One model of NGC. NGC_API_KEY holds the key; without one, what is public can be had.

    Args:
        version: None for the latest.
        digests: sha256 of files by path, for files of which NGC lists none.
        token_reference: `${NAME}` of the variable that holds the API key, or None for NGC_API_KEY.
        cache: folder for what is known of versions, or None.
        pauses: seconds before each further attempt at a file.
    """

    def __init__(
        self,
        org: str,
        team: str | None,
        name: str,
        version: str | None = None,
        *,
        digests: Mapping[str, str] | None = None,
        token_reference: str | None = None,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        cache: Path | None = None,
        pauses: Sequence[float] = PAUSES,
        http: HttpClient | None = None,
    ) -> None:
        self.version = version
        self.uri = "ngc://" + "/".join(part for part in (org, team, name) if part)
        self._digests = dict(digests or {})
        self._choices = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        self._pauses = pauses
        self._client = NgcClient(org, team, name, token_reference=token_reference, pauses=pauses[:3], http=http)
        self._cache = RevisionCache(cache, "ngc", [self._client.api, self.uri, self._choices, self._digests])

    def resolve(self) -> Revision:
        """The version that is named, or the latest, and its files. See CheckpointSource.resolve."""
        version = self.version or self._client.latest_version()[0]
        assert version is not None
        if (known := self._cache.find(version)) is not None:
            return known
        self._client.version(version)
        revision = self._select(version, self._files(version))
        self._cache.keep(revision)
        return revision

    def latest(self, etag: str | None = None) -> tuple[str | None, str | None]:
        """See PeekingSource. Of a source with a version this, too, is the model's latest, which may be another one."""
        return self._client.latest_version(etag)

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file, verified. See CheckpointSource.read."""
        file = revision.file(path)
        return self._read(revision.id, file)

    @contextmanager
    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> Iterator[Body]:
        """Bytes of a file, by its pre-signed address. See CheckpointSource.open_range."""
        with self._client.file(revision.id, file.path, start, stop, file.size) as body:
            yield body

    def abort(self) -> None:
        self._client.http.abort()

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return f"{self.uri}:{revision.id}/{file.path}"

    def _read(self, version: str, file: RemoteFile) -> bytes:
        return read_file(
            file,
            lambda start, stop: self._client.file(version, file.path, start, stop, file.size),
            where=f"{self.uri}:{version}/{file.path}",
            pauses=self._pauses,
        )

    # What NGC says of a version ---------------------------------------------------------------------------------------

    def _files(self, version: str) -> dict[str, RemoteFile]:
        found: dict[str, RemoteFile] = {}
        for entry in self._client.files(version):
            file = self._file(version, entry)
            if file.path in found:
                raise SourceError("NGC lists it twice", where=f"{self.uri}:{version}/{file.path}")
            found[file.path] = file
        return found

    def _file(self, version: str, entry: Mapping[str, Any]) -> RemoteFile:
        path, size = entry.get("path"), entry.get("sizeInBytes")
        where = f"{self.uri}:{version}"
        if not isinstance(path, str) or type(size) is not int or size < 0:
            raise SourceError("NGC lists a file without its path or size, so nothing could be verified", where=where)
        check_relative(path)
        published, pinned = _sha256(entry.get("sha256_base64"), f"{where}/{path}"), self._digests.get(path)
        if published and pinned and published != pinned:
            raise SourceError(
                f"has sha256 {published}, the recipe's source.digests demands {pinned}",
                where=f"{where}/{path}",
                fix="find out which is right before you change the recipe: the version may have been replaced",
            )
        if published or pinned:
            return RemoteFile(path, size, Digest("sha256", published or pinned or ""))
        marks = [self.uri, version, path, size, str(entry.get("createdDate") or "")]
        return RemoteFile(path, size, Digest("none", json_digest(marks)))

    def _select(self, version: str, files: Mapping[str, RemoteFile]) -> Revision:
        selection = select(
            {path: file.size for path, file in files.items()},
            read=lambda path: self._read(version, files[path]),
            where=f"{self.uri}:{version}",
            **self._choices,
        )
        return Revision(self.uri, version, tuple(files[path] for path in selection.files), selection.unused)


def _sha256(encoded: Any, where: str) -> str | None:
    """NGC writes a sha256 in base64; the hex that everything else uses. None if there is none.

    Raises:
        SourceError: for something that is no sha256: to take that for "none" would switch verification off.
    """
    if encoded is None or encoded == "":
        return None
    try:
        raw = b64decode(encoded, validate=True)
    except (Base64Error, TypeError, ValueError):
        raw = b""
    if len(raw) != 32 or not re.fullmatch(r"[A-Za-z0-9+/=]+", str(encoded)):
        raise SourceError("NGC lists a sha256 for it that is none", where=where)
    return raw.hex()
