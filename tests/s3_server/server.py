"""The server: buckets and objects in memory, addressed path style.

What it does: PUT, GET (ranges, versions, conditions), HEAD, DELETE, ListObjectsV2, uploads in parts, versioning,
`If-None-Match: *` and `If-Match`, `aws-chunked` bodies. Checksums (Content-MD5, x-amz-checksum-crc32, -sha1 and -sha256,
x-amz-content-sha256) are compared and given back. All under one lock, so that conditional writes are atomic.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.faulty_http import Fault, FaultyHandler, FaultyServer
from tests.s3_server.signature import Refused, check_signature

_HASHES: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


@dataclass(frozen=True)
class StoredObject:
    """One version of one object. `checksums` are headers that HEAD and GET give back when asked for."""

    data: bytes
    etag: str
    version: str
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Bucket:
    """Versions of each object, oldest first; None is a delete marker.

    Attributes:
        versioned: whether old versions are kept.
        public: whether requests need not be signed.
    """

    objects: dict[str, list[StoredObject | None]] = field(default_factory=dict)
    versioned: bool = False
    public: bool = False

    def current(self, key: str) -> StoredObject | None:
        versions = self.objects.get(key)
        return versions[-1] if versions else None


class S3Server(FaultyServer):
    """See the package.

    Attributes:
        secrets: secret keys by access key.
        publishes: whether checksums are given back. Many servers do not.
        page_size: objects on a page of a listing.
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(tls=tls)
        self.secrets = {"test-access-key": "test-secret-key-that-is-secret"}
        self.publishes = True
        self.page_size = 1000
        self.buckets: dict[str, Bucket] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._lock = threading.RLock()

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this server is told; no credentials from anywhere else."""
        ((key, secret),) = self.secrets.items()
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def add(self, bucket: str, objects: Mapping[str, bytes], *, prefix: str = "", sha256: bool = False, parts: int = 1) -> Bucket:
        """Puts objects without a request.

        Args:
            sha256: as if they had been uploaded with that checksum.
            parts: as if they had been uploaded in so many parts: their ETag is no MD5 then.
        """
        found = self.buckets.setdefault(bucket, Bucket())
        for name, data in objects.items():
            checksums = _checksums(data, "x-amz-checksum-sha256") if sha256 else _checksums(data, "x-amz-checksum-crc32")
            self._store(found, prefix + name, data, checksums, etag=None if parts == 1 else _parts_etag(data, parts))
        return found

    def _store(self, bucket: Bucket, key: str, data: bytes, checksums: Mapping[str, str], etag: str | None) -> StoredObject:
        version = uuid.uuid4().hex if bucket.versioned else "null"
        stored = StoredObject(data, etag or hashlib.md5(data, usedforsecurity=False).hexdigest(), version, checksums)
        versions = bucket.objects.setdefault(key, [])
        if not bucket.versioned:
            versions.clear()
        versions.append(stored)
        return stored

    # Requests ---------------------------------------------------------------------------------------------------------

    def answer(self, handler: FaultyHandler) -> None:
        raw = self._body(handler)
        name, _, key = unquote(urlsplit(handler.path).path).lstrip("/").partition("/")
        try:
            bucket = self.buckets.get(name)
            public = bucket is not None and bucket.public and handler.command in ("GET", "HEAD")
            check_signature(handler.command, handler.path, handler.seen.headers, self.secrets, anonymous=public)
            data, checksums = _received(handler.seen.headers, raw)
            with self._lock:
                reply = self._route(handler, name, key, data, checksums)
        except Refused as refused:
            body = f"<Error><Code>{refused.code}</Code><Message>{refused.code}</Message></Error>".encode()
            return handler.send(refused.status, body, {"Content-Type": "application/xml"})
        reply()
        return None

    def _body(self, handler: FaultyHandler) -> bytes:
        return handler.rfile.read(int(handler.seen.headers.get("content-length") or 0))

    def _route(
        self, handler: FaultyHandler, name: str, key: str, data: bytes, checksums: Mapping[str, str]
    ) -> Callable[[], None]:
        """Does what is asked for and returns the function that answers: the lock is not held while bytes are sent."""
        method, query = handler.command, handler.seen.query
        fault = self.fault(key or "/") if method not in ("GET", "HEAD") or not key else None
        if fault is not None and (fault.status is not None or fault.body is not None):
            return lambda: handler.broken(fault) and None
        if method == "PUT" and not key:
            if "versioning" in query:
                self._bucket(name).versioned = b"Enabled" in data
            else:
                self.buckets.setdefault(name, Bucket())
            return lambda: handler.send(200, b"", {})
        bucket = self._bucket(name)
        if not key:
            if method == "HEAD":
                return lambda: handler.send(200, b"", {})
            if method == "GET" and query.get("list-type") == "2":
                page = self._listing(bucket, name, query)
                return lambda: handler.send(200, page, {"Content-Type": "application/xml"})
            raise Refused("NotImplemented", 501)
        if method == "POST" or (method == "PUT" and "uploadId" in query):
            return self._multipart(handler, bucket, key, data)
        if method == "PUT":
            self._check_conditions(handler, bucket.current(key))
            stored = self._store(bucket, key, data, checksums, None)
            return lambda: handler.send(200, b"", _headers(stored, checksums=False))
        if method == "DELETE":
            self._delete(bucket, key, query.get("versionId"))
            return lambda: handler.send(204, b"", {})
        return self._get(handler, bucket, key)

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refused("NoSuchBucket", 404)
        return self.buckets[name]

    def _get(self, handler: FaultyHandler, bucket: Bucket, key: str) -> Callable[[], None]:
        version = handler.seen.query.get("versionId")
        if version is None:
            found = bucket.current(key)
            if found is None:
                raise Refused("NoSuchKey", 404)
        else:
            found = next((v for v in bucket.objects.get(key, []) if v is not None and v.version == version), None)
            if found is None:
                raise Refused("NoSuchVersion", 404)
        wanted = handler.seen.headers.get("if-match")
        if wanted is not None and wanted.strip('"') != found.etag:
            raise Refused("PreconditionFailed", 412)
        asked = handler.seen.headers.get("x-amz-checksum-mode") == "ENABLED" and "range" not in handler.seen.headers
        headers = _headers(found, checksums=asked and self.publishes)
        fault = self.fault(key) or Fault("")
        data = found.data
        return lambda: handler.send_data(data, headers, fault)

    def _check_conditions(self, handler: FaultyHandler, current: StoredObject | None) -> None:
        headers = handler.seen.headers
        if headers.get("if-none-match") == "*" and current is not None:
            raise Refused("PreconditionFailed", 412)
        wanted = headers.get("if-match")
        if wanted is not None and (current is None or current.etag != wanted.strip('"')):
            raise Refused("PreconditionFailed" if current is not None else "NoSuchKey", 412 if current is not None else 404)

    def _delete(self, bucket: Bucket, key: str, version: str | None) -> None:
        if version is not None:
            bucket.objects[key] = [v for v in bucket.objects.get(key, []) if v is None or v.version != version]
        elif bucket.versioned:
            bucket.objects.setdefault(key, []).append(None)
        else:
            bucket.objects.pop(key, None)

    # Uploads in parts -------------------------------------------------------------------------------------------------

    def _multipart(self, handler: FaultyHandler, bucket: Bucket, key: str, data: bytes) -> Callable[[], None]:
        query = handler.seen.query
        if handler.command == "POST" and "uploads" in query:
            upload = uuid.uuid4().hex
            self._uploads[upload] = {}
            body = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return lambda: handler.send(200, body.encode(), {})
        parts = self._uploads.get(query.get("uploadId", ""))
        if parts is None:
            raise Refused("NoSuchUpload", 404)
        if handler.command == "PUT":
            parts[int(query["partNumber"])] = data
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            return lambda: handler.send(200, b"", {"ETag": f'"{etag}"'})
        named = re.findall(r"<PartNumber>(\d+)</PartNumber>", data.decode())
        whole = [parts[int(number)] for number in named]
        self._check_conditions(handler, bucket.current(key))
        digests = b"".join(hashlib.md5(p, usedforsecurity=False).digest() for p in whole)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(whole)}"
        self._store(bucket, key, b"".join(whole), {}, etag)
        del self._uploads[query["uploadId"]]
        body = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        return lambda: handler.send(200, body.encode(), {})

    # Listings ---------------------------------------------------------------------------------------------------------

    def _listing(self, bucket: Bucket, name: str, query: Mapping[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        limit = min(int(query.get("max-keys", "1000")), self.page_size)
        keys = [k for k in sorted(bucket.objects) if k.startswith(prefix) and bucket.current(k) is not None and k > after]
        entries, folders = [], set()
        for key in keys:
            head, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders.add(prefix + head + delimiter)
            else:
                entries.append(key)
        page, more = entries[:limit], len(entries) > limit
        encoded = query.get("encoding-type") == "url"
        root = ElementTree.Element("ListBucketResult")
        fields = {"Name": name, "Prefix": prefix, "KeyCount": len(page), "MaxKeys": limit, "IsTruncated": str(more).lower()}
        if encoded:
            fields["EncodingType"] = "url"
        if more:
            fields["NextContinuationToken"] = page[-1]
        for tag, value in fields.items():
            ElementTree.SubElement(root, tag).text = str(value)
        for key in page:
            stored = bucket.current(key)
            assert stored is not None
            contents = ElementTree.SubElement(root, "Contents")
            ElementTree.SubElement(contents, "Key").text = _url(key) if encoded else escape(key)
            ElementTree.SubElement(contents, "ETag").text = f'"{stored.etag}"'
            ElementTree.SubElement(contents, "Size").text = str(len(stored.data))
            ElementTree.SubElement(contents, "LastModified").text = "2026-01-01T00:00:00.000Z"
        for folder in sorted(folders):
            ElementTree.SubElement(ElementTree.SubElement(root, "CommonPrefixes"), "Prefix").text = folder
        return ElementTree.tostring(root)


def _url(key: str) -> str:
    return quote(key, safe="/")


def _headers(stored: StoredObject, *, checksums: bool) -> dict[str, str]:
    headers = {"ETag": f'"{stored.etag}"', "Accept-Ranges": "bytes", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if stored.version != "null":
        headers["x-amz-version-id"] = stored.version
    if checksums and stored.checksums:
        headers |= {**stored.checksums, "x-amz-checksum-type": "FULL_OBJECT"}
    return headers


def _checksums(data: bytes, name: str) -> dict[str, str]:
    return {name: base64.b64encode(_HASHES[name](data)).decode()}


def _parts_etag(data: bytes, parts: int) -> str:
    size = -(-len(data) // parts) or 1
    digests = b"".join(hashlib.md5(data[at : at + size], usedforsecurity=False).digest() for at in range(0, len(data), size))
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{parts}"


def _received(headers: Mapping[str, str], raw: bytes) -> tuple[bytes, dict[str, str]]:
    """The body that was meant, and its checksums.

    Raises:
        Refused: if it is not what the request says that it is.
    """
    claimed = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    trailers: dict[str, str] = {}
    if claimed.startswith("STREAMING-"):
        raw, trailers = _unchunked(raw)
    elif claimed != "UNSIGNED-PAYLOAD" and claimed != hashlib.sha256(raw).hexdigest():
        raise Refused("XAmzContentSHA256Mismatch", 400)
    md5 = headers.get("content-md5")
    if md5 is not None and base64.b64decode(md5) != hashlib.md5(raw, usedforsecurity=False).digest():
        raise Refused("BadDigest", 400)
    given = {name: value for name in _HASHES if (value := headers.get(name) or trailers.get(name))}
    for name, value in given.items():
        if base64.b64decode(value) != _HASHES[name](raw):
            raise Refused("BadDigest", 400)
    return raw, given


def _unchunked(raw: bytes) -> tuple[bytes, dict[str, str]]:
    """A body in `aws-chunked` form, and the trailers after it."""
    data, at = bytearray(), 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end].partition(b";")[0], 16)
        at = end + 2
        if not size:
            break
        data += raw[at : at + size]
        at += size + 2
    lines = raw[at:].decode().split("\r\n")
    return bytes(data), {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if v}
