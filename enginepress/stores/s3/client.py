"""Requests to one bucket for a store: tried again while that may help, refused in words, conditions as results.

Every method may be called by many threads. Keys are whole keys of the bucket. ETags are without quotes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from enginepress.errors import StoreError
from enginepress.s3_access import S3Settings, Words, boto_client, explained, in_words
from enginepress.sources import Interrupted
from enginepress.stores.s3.digests import SIGNED, Body

WORDS = Words(StoreError, "stores", "the store's URL", "read and write it")
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
BLOCK = 256 * 1024
T = TypeVar("T")


class Outcome(StoreError):
    """What callers tell apart. Where nobody expects it (a listing that is not there, of a server that is none) it is an error."""

    def __init__(self, message: str = "the server refuses it", *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(message, where=where, fix=fix)


class Missing(Outcome):
    """There is no such object or upload."""


class Unmet(Outcome):
    """A conditional write found another state than it was meant for (412), or lost against one at the same time (409)."""


class Unsupported(Outcome):
    """The server does not know this request (501), or not with this header."""


@dataclass(frozen=True)
class Stored:
    """One object as a listing or a HEAD says. `modified` is the server's clock."""

    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun."""

    key: str
    id: str
    begun: datetime


class StoreClient:
    """One bucket.

    Args:
        pauses: seconds before each further attempt, made a little longer or shorter by chance.
    """

    def __init__(self, bucket: str, settings: S3Settings, *, pauses: Sequence[float] = PAUSES) -> None:
        self.bucket = bucket
        self.settings = settings
        self._pauses = pauses
        self._botos: dict[bool | None, Any] = {}

    def where(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    # Reading ----------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> tuple[bytes, Stored]:
        """A small object, whole.

        Raises:
            Missing: if there is none.
        """

        def attempt() -> tuple[bytes, Stored]:
            answer = self._once("get_object", key)
            with in_words(self.where(key), WORDS):
                data = answer["Body"].read()
            if len(data) != int(answer["ContentLength"]):
                raise Interrupted("the answer ended early")
            return data, _stored(key, answer)

        return self._patiently(key, attempt)

    @contextmanager
    def open_range(self, key: str, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes], str]]:
        """Bytes of an object: where they start, blocks as they come, and the ETag. One attempt.

        Raises:
            Interrupted: if another may help; while the blocks are read, too.
            Missing: if there is no such object.
        """
        more: dict[str, Any] = {"Range": f"bytes={start}-{stop - 1}"} if stop > start else {}
        answer = self._once("get_object", key, **more)
        stream = answer["Body"]
        raw = getattr(stream, "_raw_stream", None)
        read = getattr(raw, "read1", None) or stream.read  # what the socket has; boto3's own waits until a block is full

        def blocks() -> Iterator[bytes]:
            while True:
                with in_words(self.where(key), WORDS):
                    block = read(BLOCK)
                if not block:
                    return
                yield block

        begins = 0
        if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
            begins = int(answer.get("ContentRange", "bytes 0-").split(" ")[-1].split("-")[0])
        try:
            yield begins, blocks(), _etag(answer)
        finally:
            stream.close()

    def head(self, key: str) -> Stored:
        """Raises Missing if there is no such object."""
        return _stored(key, self._ask("head_object", key))

    def listing(self, prefix: str) -> list[Stored]:
        """Every object under a prefix, sorted by key."""
        return [Stored(e["Key"], int(e["Size"]), _etag(e), e["LastModified"]) for e in self._pages(prefix, "Contents")]

    def folders(self, prefix: str) -> list[str]:
        """Names right under a prefix that have something under them."""
        found = self._pages(prefix, "CommonPrefixes", Delimiter="/")
        return sorted(e["Prefix"].removeprefix(prefix).rstrip("/") for e in found)

    def objects(self, prefix: str, *, but: Collection[str] = ()) -> list[str]:
        """Names of the objects right under a prefix, sorted."""
        found = (e["Key"].removeprefix(prefix) for e in self._pages(prefix, "Contents", Delimiter="/"))
        return sorted(name for name in found if name and name not in but)

    def _pages(self, prefix: str, field: str, **more: Any) -> Iterator[Any]:
        token: dict[str, str] = {}
        while True:
            answer = self._ask("list_objects_v2", prefix, named=False, Prefix=prefix, **more, **token)
            yield from answer.get(field, [])
            following = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not following or {"ContinuationToken": following} == token:
                return
            token = {"ContinuationToken": following}

    def answer_headers(self) -> dict[str, str]:
        """Headers of an answer, in lower case: some servers can be told by them."""
        answer = self._ask("list_objects_v2", "", named=False, MaxKeys=1)
        return {name.lower(): value for name, value in answer["ResponseMetadata"].get("HTTPHeaders", {}).items()}

    # Writing ----------------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | bytearray,
        *,
        digest: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> str:
        """Writes an object in one request; returns its ETag.

        Args:
            digest: what the server is to compare the body with, as `enginepress.stores.s3.digests` makes it.
            if_none_match: only if there is no such object.
            if_match: only if the object has this ETag now, written as the server wants it.

        Raises:
            Unmet: if the condition does not hold. An attempt before may have been the one that changed it.
        """
        more: dict[str, Any] = dict(digest or {})
        if metadata:
            more["Metadata"] = dict(metadata)
        if if_none_match:
            more["IfNoneMatch"] = "*"
        if if_match is not None:
            more["IfMatch"] = if_match
        return _etag(self._ask("put_object", key, Body=data, **more))

    def copy(self, source: str, target: str, *, etag: str) -> None:
        """Copies an object within the server, if it still has this ETag, written as the server wants it.

        Raises:
            Missing, Unmet: if the source is gone, or was changed.
        """
        source_object = {"Bucket": self.bucket, "Key": source}
        self._ask("copy_object", target, CopySource=source_object, CopySourceIfMatch=etag)

    def delete(self, key: str) -> None:
        self._ask("delete_object", key)

    def delete_all(self, keys: Iterable[str]) -> None:
        """Deletes objects, a thousand a request, or one by one where the server cannot do many."""
        left = list(keys)
        for at in range(0, len(left), 1000):
            some = left[at : at + 1000]
            try:
                body = {"Objects": [{"Key": key} for key in some], "Quiet": True}
                answer = self._ask("delete_objects", some[0], named=False, Delete=body)
                some = [e["Key"] for e in answer.get("Errors", []) if e.get("Code") != "NoSuchKey"]
            except Unsupported:
                pass
            for key in some:
                self.delete(key)

    @contextmanager
    def damaging(self, key: str, body: bytes) -> Iterator[None]:
        """Meanwhile what is put there arrives as `body`, as if something on the way had changed it after it was signed."""
        boto = self._boto(True)

        def damage(request: Any, **_: Any) -> None:
            if request.url.endswith(key):
                request.body = body

        boto.meta.events.register("before-send.s3.PutObject", damage)
        try:
            yield
        finally:
            boto.meta.events.unregister("before-send.s3.PutObject", damage)

    # In parts ---------------------------------------------------------------------------------------------------------

    def begin(self, key: str, *, algorithm: str | None = None) -> str:
        """Begins an upload in parts; returns its id.

        Args:
            algorithm: of the checksum that will come with each part, if it is not MD5.
        """
        more: dict[str, Any] = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        return str(self._ask("create_multipart_upload", key, **more)["UploadId"])

    def put_part(self, key: str, upload: str, number: int, data: bytes | bytearray, *, digest: Mapping[str, str]) -> str:
        """Raises Missing if the upload is gone."""
        more: dict[str, Any] = dict(digest)
        return _etag(self._ask("upload_part", key, UploadId=upload, PartNumber=number, Body=data, **more))

    def copy_part(self, key: str, upload: str, number: int, *, source: str, etag: str, start: int, stop: int) -> str:
        answer = self._ask(
            "upload_part_copy",
            key,
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": self.bucket, "Key": source},
            CopySourceIfMatch=etag,
            CopySourceRange=f"bytes={start}-{stop - 1}",
        )
        return _etag(answer["CopyPartResult"])

    def parts(self, key: str, upload: str) -> dict[int, tuple[int, str]]:
        """Size and ETag of the parts that are there, by number. Empty where the server does not list them."""
        found: dict[int, tuple[int, str]] = {}
        after = 0
        while True:
            try:
                answer = self._ask("list_parts", key, UploadId=upload, PartNumberMarker=after)
            except (Missing, Unsupported):
                return {}
            for part in answer.get("Parts", []):
                found[int(part["PartNumber"])] = (int(part["Size"]), _etag(part))
            following = int(answer.get("NextPartNumberMarker") or 0)
            if not answer.get("IsTruncated") or following <= after:
                return found
            after = following

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str, Mapping[str, str]]]) -> None:
        """Puts the parts together: number, ETag and checksums of each.

        Raises:
            Missing: if the upload is gone; an attempt before may have completed it.
        """
        named = [{"PartNumber": number, "ETag": f'"{etag}"', **checks} for number, etag, checks in parts]
        self._ask("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": named})

    def abort(self, key: str, upload: str) -> None:
        try:
            self._ask("abort_multipart_upload", key, UploadId=upload)
        except Missing:
            pass

    def uploads(self, prefix: str) -> list[Upload]:
        """Uploads that were begun under a prefix and neither completed nor aborted. Empty where the server does not list them."""
        found: list[Upload] = []
        marks: dict[str, str] = {}
        while True:
            try:
                answer = self._ask("list_multipart_uploads", prefix, named=False, Prefix=prefix, **marks)
            except (Missing, Unsupported):
                return found
            found += [Upload(e["Key"], e["UploadId"], e["Initiated"]) for e in answer.get("Uploads", [])]
            following = {"KeyMarker": answer.get("NextKeyMarker") or "", "UploadIdMarker": answer.get("NextUploadIdMarker") or ""}
            if not answer.get("IsTruncated") or following == marks or not following["KeyMarker"]:
                return found
            marks = following

    # One request ------------------------------------------------------------------------------------------------------

    def _ask(self, operation: str, key: str, *, named: bool = True, **query: Any) -> Any:
        return self._patiently(key, lambda: self._once(operation, key, named=named, **query))

    def _patiently(self, key: str, attempt: Callable[[], T]) -> T:
        for pause in [*self._pauses, None]:
            try:
                return attempt()
            except Interrupted as error:
                if pause is None:
                    raise StoreError(
                        f"the server could not be asked: {error}",
                        where=self.where(key),
                        fix="check the network and the store's endpoint, then run again: what is there already is not sent again",
                    ) from None
                time.sleep(max(pause * random.uniform(0.75, 1.25), error.wait or 0))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, operation: str, key: str, *, named: bool = True, **query: Any) -> Any:
        with in_words(self.where(key), WORDS):
            sha256 = query.pop(SIGNED, None)
            signed = True if sha256 is not None else False if query.keys() & _DIGESTS else None
            boto = self._boto(signed)
        if sha256 is not None:
            body = query["Body"] = query["Body"] if isinstance(query["Body"], Body) else Body(query["Body"])
            body.sha256 = sha256
        if named:
            query["Key"] = key
        try:
            return getattr(boto, operation)(Bucket=self.bucket, **query)
        except Exception as error:
            conditional, there = bool(query.keys() & _CONDITIONS), named and operation not in _MAKING
            raise _outcome(error, self.where(key), conditional=conditional, there=there) from None

    def _boto(self, signed: bool | None) -> Any:
        """boto3's client, for who was asking when it was first needed."""
        boto = self._botos.get(signed)
        if boto is None:
            boto = self._botos[signed] = boto_client(self.settings, WORDS, sign_bodies=signed)
        return boto


_DIGESTS = {"ContentMD5", "ChecksumSHA256", "ChecksumCRC32"}
_MAKING = {"put_object", "create_multipart_upload"}
_CONDITIONS = {"IfMatch", "IfNoneMatch", "CopySourceIfMatch"}


def _outcome(error: Exception, where: str, *, conditional: bool, there: bool) -> Exception:
    """What callers tell apart, else what `explained` says.

    Args:
        there: the request is about one object or upload, so that 404 says something of that and not of the server.
    """
    response = getattr(error, "response", None)
    told = explained(error, where, WORDS)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(response.get("Error", {}).get("Code", ""))
        if status == 404 and code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
            kind = Unmet if conditional and code != "NoSuchKey" else Missing
            return _as(kind, told) if there else _unknown(kind, status, code, where)
        lost = status == 409 and code in ("ConditionalRequestConflict", "OperationAborted")
        if conditional and (status == 412 or lost):
            return _as(Unmet, told)
        if lost:
            return Interrupted(f"it answers with status {status} {code}")
        if status == 501 or code == "NotImplemented":
            return _unknown(Unsupported, status, code, where)
    return told


def _as(kind: type[Outcome], told: Exception) -> Outcome:
    return kind(told.message, where=told.where, fix=told.fix) if isinstance(told, StoreError) else kind(str(told))


def _unknown(kind: type[Outcome], status: int, code: str, where: str) -> Outcome:
    fix = "is it an S3 server? Check stores.endpoint (or AWS_ENDPOINT_URL)"
    return kind(f"the server does not know this request (status {status} {code})", where=where, fix=fix)


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag") or "").strip('"')


def _stored(key: str, answer: Mapping[str, Any]) -> Stored:
    metadata = {k.lower(): v for k, v in answer.get("Metadata", {}).items()}
    return Stored(key, int(answer["ContentLength"]), _etag(answer), answer["LastModified"], metadata)
