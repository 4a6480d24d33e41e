"""Requests to an S3-compatible server for one bucket, in words when something is refused.

Who asks, and how, stands in `enginepress.s3_access`. Trying again and hashing are done for all sources alike.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from enginepress.errors import SourceError
from enginepress.s3_access import S3Settings, Words, boto_client, in_words
from enginepress.sources import Body, Interrupted
from enginepress.sources.asking import ask_patiently
from enginepress.sources.transfer.checksums import WIDTH, crc_of_kind

MAX_OBJECTS = 100_000
BLOCK = 256 * 1024


@dataclass(frozen=True)
class Listed:
    """One object of a listing; `etag` without quotes, `modified` as the server writes it."""

    key: str
    size: int
    etag: str
    modified: str


@dataclass(frozen=True)
class ObjectHead:
    """What a server says of one object.

    Attributes:
        version: its version id in a bucket that keeps versions, else "".
        sha256: hex, if the server has one of the whole object.
        md5: hex, if the ETag is the content's MD5: uploaded in one part, and not encrypted with a key of its own.
        checksum: another one that can be computed here, as `transfer.checksums` writes it; asked for where there is neither.
    """

    size: int
    etag: str
    version: str
    sha256: str | None
    md5: str | None
    checksum: str = ""


class S3Client:
    """One bucket. May be used by many threads; connects when first asked.

    Args:
        pauses: seconds before each further attempt at a request for metadata.
    """

    def __init__(self, bucket: str, settings: S3Settings, *, pauses: Sequence[float] = (0.5, 1.0, 2.0)) -> None:
        self.bucket = bucket
        self.settings = settings
        self.endpoint = settings.address()
        self._pauses = pauses
        self._boto: Any = None

    def list(self, prefix: str) -> list[Listed]:
        """Every object under `prefix`, with a thousand a request. Markers of empty folders are left out."""
        found: list[Listed] = []
        token: dict[str, str] = {}
        where = f"s3://{self.bucket}/{prefix}"
        while True:
            answer = self._ask("list_objects_v2", where, Bucket=self.bucket, Prefix=prefix, **token)
            for entry in answer.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    etag = str(entry.get("ETag", "")).strip('"')
                    found.append(Listed(entry["Key"], int(entry["Size"]), etag, str(entry.get("LastModified", ""))))
            if len(found) > MAX_OBJECTS:
                raise SourceError(f"holds more than {MAX_OBJECTS:,} objects", where=where, fix="name the checkpoint's own folder")
            if not answer.get("IsTruncated"):
                return found
            following = answer.get("NextContinuationToken")
            if not following or {"ContinuationToken": following} == token:
                raise SourceError("the server says that its listing goes on, and not where", where=where)
            token = {"ContinuationToken": following}

    def head(self, key: str) -> ObjectHead:
        """What the server says of an object as it is now, its checksum included where it has one."""
        where = f"s3://{self.bucket}/{key}"
        answer = self._ask("head_object", where, Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        etag = str(answer.get("ETag", "")).strip('"')
        version = str(answer.get("VersionId") or "")
        size = int(answer["ContentLength"])
        encrypted = "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        sha256 = _whole_sha256(answer)
        md5 = etag if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted else None
        checksum = "" if sha256 or md5 else self._checksum(key, answer, size)
        return ObjectHead(size, etag, "" if version == "null" else version, sha256, md5, checksum)

    def _checksum(self, key: str, answer: Mapping[str, Any], size: int) -> str:
        """The first CRC of an answer that can be computed here. Of an upload in parts, their size is asked for as well."""
        for name, kind in _CRCS.items():
            value, _, parts = str(answer.get(name) or "").partition("-")
            raw = _decoded(value, WIDTH[kind])
            if raw is None or crc_of_kind(kind) is None:
                continue
            if not parts:
                return f"{kind}:{raw.hex()}"
            query = {"Bucket": self.bucket, "Key": key}
            if "VersionId" in answer and answer["VersionId"] != "null":
                query["VersionId"] = answer["VersionId"]
            where, count = f"s3://{self.bucket}/{key}", int(parts) if parts.isdecimal() else 0
            try:
                first, last = (
                    int(self._ask("head_object", where, **query, PartNumber=number)["ContentLength"]) for number in (1, count)
                )
            except SourceError:
                return ""  # a server that cannot be asked for parts
            # One that passes over the question says the size of the whole; parts of several sizes cannot be followed.
            if count and 0 < last <= first and first * (count - 1) + last == size:
                return f"{kind}:{raw.hex()}-{count}/{first}"
        return ""

    @contextmanager
    def open_range(self, key: str, start: int, stop: int, *, version: str = "", etag: str = "") -> Iterator[Body]:
        """Bytes of an object: of this version, or only while it still has this ETag.

        Raises:
            Interrupted: if another try may help.
            SourceError: if it will not.
        """
        where = f"s3://{self.bucket}/{key}"
        query: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        if stop > start:
            query["Range"] = f"bytes={start}-{stop - 1}"
        if version:
            query["VersionId"] = version
        answer = self._once("get_object", where, **query)
        stream = answer["Body"]
        try:
            # Compared here, not by If-Match: servers disagree on whether an ETag in it has quotes.
            if etag and str(answer.get("ETag", "")).strip('"') != etag:
                raise SourceError(_CHANGED, where=where, fix=_CHANGED_FIX)
            yield Body(self._start(answer, start), self._blocks(stream, where), version=answer.get("ETag") or None)
        finally:
            # A body that was not read to its end is not read now just to keep its connection.
            stream.close()

    def _start(self, answer: Mapping[str, Any], start: int) -> int:
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            return 0
        match = re.match(r"bytes (\d+)-", answer.get("ContentRange", ""))
        if match is None or int(match[1]) != start:
            raise Interrupted("the server sent another part of the object than the one it was asked for")
        return start

    def _blocks(self, stream: Any, where: str) -> Iterator[bytes]:
        """What the socket has, at once: boto3's own `read` waits until a block is full, and so for ever if bytes trickle."""
        raw = getattr(stream, "_raw_stream", None)
        read = getattr(raw, "read1", None) or stream.read
        while True:
            with in_words(where, _WORDS):
                block = read(BLOCK)
            if not block:
                return
            yield block

    # One request ------------------------------------------------------------------------------------------------------

    def _ask(self, operation: str, where: str, **query: Any) -> Any:
        return ask_patiently(
            lambda: self._once(operation, where, **query),
            pauses=self._pauses,
            failed=lambda error: SourceError(
                f"the server could not be asked: {error}",
                where=where,
                fix=f"check the network and {'source.endpoint' if self.endpoint else 'the region'}, then run again",
            ),
        )

    def _once(self, operation: str, where: str, **query: Any) -> Any:
        boto = self._connected()
        with in_words(where, _WORDS):
            return getattr(boto, operation)(**query)

    def _connected(self) -> Any:
        if self._boto is None:
            with in_words(f"s3://{self.bucket}", _WORDS):
                self._boto = boto_client(self.settings, _WORDS)
        return self._boto


_CHANGED, _CHANGED_FIX = "was changed after it was resolved", "let whoever writes the folder finish, then run again"
_WORDS = Words(SourceError, "source", "`source.uri`", "read it")


def _whole_sha256(answer: Mapping[str, Any]) -> str | None:
    """The sha256 of the whole object. That of an upload in parts is a checksum of checksums, which nobody can recompute."""
    value = str(answer.get("ChecksumSHA256") or "")
    if not value or "-" in value or answer.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    raw = _decoded(value, 32)
    return raw.hex() if raw is not None else None


_CRCS = {"ChecksumCRC64NVME": "crc64nvme", "ChecksumCRC32C": "crc32c", "ChecksumCRC32": "crc32"}


def _decoded(value: str, count: int) -> bytes | None:
    """So many bytes of base64, or None."""
    try:
        raw = b64decode(value, validate=True)
    except (Base64Error, ValueError):
        return None
    return raw if len(raw) == count else None
