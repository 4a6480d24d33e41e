"""The server: buckets and objects in memory, addressed path style.

What it does: PUT, GET (ranges, versions, conditions), HEAD, DELETE, DeleteObjects, CopyObject, ListObjectsV2, uploads in
parts with all that belongs to them, metadata, versioning, `If-None-Match: *` and `If-Match`, `aws-chunked` bodies.
Checksums (Content-MD5, x-amz-checksum-crc32, -sha1 and -sha256, x-amz-content-sha256) are compared and given back. All under
one lock, so that conditional writes are atomic.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.faulty_http import Fault, FaultyHandler, FaultyServer, Request
from tests.s3_server.checksums import HASHES, parts_etag, received
from tests.s3_server.checksums import checksums as checksums_of
from tests.s3_server.signature import Refused, check_signature


@dataclass(frozen=True)
class StoredObject:
    """One version of one object.

    Attributes:
        checksums: headers that HEAD and GET give back when asked for.
        part_bytes: size of the parts in which it was uploaded, 0 for one part.
        metadata: headers `x-amz-meta-…` that they give back always.
        modified: when it was written, in seconds.
    """

    data: bytes
    etag: str
    version: str
    checksums: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: float = field(default_factory=time.time)
    part_bytes: int = 0


@dataclass
class Upload:
    """An upload in parts that was begun."""

    bucket: str
    key: str
    metadata: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)
    begun: float = field(default_factory=time.time)


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
        quota: bytes that all objects together may have, or None.
        compares: digests of bodies that are compared; many servers take some of them unseen.
        conditions: whether `If-None-Match` and `If-Match` are looked at.
        copies: whether objects can be copied.
        uploads: what was begun and neither completed nor aborted, by id.
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(tls=tls)
        self.secrets = {"test-access-key": "test-secret-key-that-is-secret"}
        self.publishes = True
        self.page_size = 1000
        self.buckets: dict[str, Bucket] = {}
        self.quota: int | None = None
        self.compares = {"x-amz-content-sha256", "content-md5", *HASHES}
        self.conditions = True
        self.copies = True
        self.uploads: dict[str, Upload] = {}
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

    def add(
        self,
        bucket: str,
        objects: Mapping[str, bytes],
        *,
        prefix: str = "",
        sha256: bool = False,
        parts: int = 1,
        crc: str = "crc32",
    ) -> Bucket:
        """Puts objects without a request.

        Args:
            sha256: as if they had been uploaded with that checksum.
            parts: as if they had been uploaded in so many parts: their ETag is no MD5 then, and their CRC-32 one of CRCs.
            crc: as if they had been uploaded with that checksum: crc32, crc32c or crc64nvme; "" for a server that keeps none.
        """
        found = self.buckets.setdefault(bucket, Bucket())
        for name, data in objects.items():
            part_bytes = (-(-len(data) // parts) or 1) if parts > 1 else 0
            kept = "sha256" if sha256 else crc
            checksums = checksums_of(data, f"x-amz-checksum-{kept}", part_bytes if kept == "crc32" else 0) if kept else {}
            etag = parts_etag(data, part_bytes) if part_bytes else None
            self._store(found, prefix + name, data, checksums, etag, part_bytes=part_bytes)
        return found

    def _store(
        self,
        bucket: Bucket,
        key: str,
        data: bytes,
        checksums: Mapping[str, str],
        etag: str | None,
        metadata: Mapping[str, str] | None = None,
        part_bytes: int = 0,
    ) -> StoredObject:
        if self.quota is not None and self._used() + len(data) > self.quota:
            raise Refused("QuotaExceeded")
        version = uuid.uuid4().hex if bucket.versioned else "null"
        etag = etag or hashlib.md5(data, usedforsecurity=False).hexdigest()
        stored = StoredObject(data, etag, version, checksums, metadata or {}, part_bytes=part_bytes)
        versions = bucket.objects.setdefault(key, [])
        if not bucket.versioned:
            versions.clear()
        versions.append(stored)
        return stored

    def _used(self) -> int:
        objects = (v for b in self.buckets.values() for versions in b.objects.values() for v in versions if v is not None)
        return sum(len(v.data) for v in objects) + sum(len(p) for u in self.uploads.values() for p in u.parts.values())

    def after_request(self, seen: Request) -> None:
        """Called when a request was carried out, before it is answered and before any other. For tests to replace."""

    # Requests ---------------------------------------------------------------------------------------------------------

    def answer(self, handler: FaultyHandler) -> None:
        raw = self._body(handler)
        name, _, key = unquote(urlsplit(handler.path).path).lstrip("/").partition("/")
        try:
            bucket = self.buckets.get(name)
            public = bucket is not None and bucket.public and handler.command in ("GET", "HEAD")
            check_signature(handler.command, handler.path, handler.seen.headers, self.secrets, anonymous=public)
            data, checksums = received(handler.seen.headers, raw, self.compares)
            with self._lock:
                reply = self._route(handler, name, key, data, checksums)
                self.after_request(handler.seen)
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
        method = handler.command
        at_once = method not in ("GET", "HEAD") or not key  # faults of an object's bytes are for `_get`
        fault = self.fault(key or "/") or self.fault(f"{method} {key}") if at_once else None
        if fault is not None and (fault.status is not None or fault.body is not None or fault.reset):
            return lambda: handler.broken(fault) and None
        reply = self._act(handler, name, key, data, checksums)
        return reply if fault is None or not fault.lost else handler.hang_up

    def _act(self, handler: FaultyHandler, name: str, key: str, data: bytes, checksums: Mapping[str, str]) -> Callable[[], None]:
        method, query = handler.command, handler.seen.query
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
            if method == "GET" and "uploads" in query:
                return self._listed_uploads(handler, name)
            if method == "POST" and "delete" in query:
                return self._delete_many(handler, bucket, data)
            raise Refused("NotImplemented", 501)
        if "uploadId" in query and method in ("GET", "DELETE"):
            return self._about_upload(handler, name, key)
        if method == "PUT" and "x-amz-copy-source" in handler.seen.headers:
            return self._copy(handler, bucket, name, key)
        if method == "POST" or (method == "PUT" and "uploadId" in query):
            return self._multipart(handler, bucket, name, key, data)
        if method == "PUT":
            self._check_conditions(handler, bucket.current(key))
            stored = self._store(bucket, key, data, checksums, None, _metadata(handler))
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
        fault = self.fault(key) or self.fault(f"{handler.command} {key}") or Fault("")
        data = found.data
        if found.part_bytes and (number := handler.seen.query.get("partNumber")):
            data = data[(int(number) - 1) * found.part_bytes : int(number) * found.part_bytes]
        return lambda: handler.send_data(data, headers, fault)

    def _check_conditions(self, handler: FaultyHandler, current: StoredObject | None) -> None:
        headers = handler.seen.headers if self.conditions else {}
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

    def _multipart(self, handler: FaultyHandler, bucket: Bucket, name: str, key: str, data: bytes) -> Callable[[], None]:
        query = handler.seen.query
        if handler.command == "POST" and "uploads" in query:
            begun = uuid.uuid4().hex
            self.uploads[begun] = Upload(name, key, _metadata(handler))
            return _xml(handler, f"<InitiateMultipartUploadResult><UploadId>{begun}</UploadId></InitiateMultipartUploadResult>")
        upload = self._upload(name, key, query)
        if handler.command == "PUT":
            if self.quota is not None and self._used() + len(data) > self.quota:
                raise Refused("QuotaExceeded")
            upload.parts[int(query["partNumber"])] = data
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            return lambda: handler.send(200, b"", {"ETag": f'"{etag}"'})
        named = re.findall(r"<PartNumber>(\d+)</PartNumber>", data.decode())
        if not named or not all(int(number) in upload.parts for number in named):
            raise Refused("InvalidPart", 400)
        whole = [upload.parts[int(number)] for number in named]
        self._check_conditions(handler, bucket.current(key))
        digests = b"".join(hashlib.md5(p, usedforsecurity=False).digest() for p in whole)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(whole)}"
        del self.uploads[query["uploadId"]]
        self._store(bucket, key, b"".join(whole), {}, etag, upload.metadata)
        return _xml(handler, f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>")

    def _upload(self, name: str, key: str, query: Mapping[str, str]) -> Upload:
        upload = self.uploads.get(query.get("uploadId", ""))
        if upload is None or (upload.bucket, upload.key) != (name, key):
            raise Refused("NoSuchUpload", 404)
        return upload

    def _about_upload(self, handler: FaultyHandler, name: str, key: str) -> Callable[[], None]:
        """ListParts, AbortMultipartUpload."""
        query = handler.seen.query
        upload = self._upload(name, key, query)
        if handler.command == "DELETE":
            del self.uploads[query["uploadId"]]
            return lambda: handler.send(204, b"", {})
        after = int(query.get("part-number-marker") or 0)
        later = sorted((n, data) for n, data in upload.parts.items() if n > after)
        page = later[: self.page_size]
        parts = "".join(
            f"<Part><PartNumber>{n}</PartNumber><Size>{len(data)}</Size>"
            f"<ETag>&quot;{hashlib.md5(data, usedforsecurity=False).hexdigest()}&quot;</ETag></Part>"
            for n, data in page
        )
        more = str(len(later) > len(page)).lower()
        last = page[-1][0] if page else 0
        mark = f"<IsTruncated>{more}</IsTruncated><NextPartNumberMarker>{last}</NextPartNumberMarker>"
        return _xml(handler, f"<ListPartsResult>{mark}{parts}</ListPartsResult>")

    def _listed_uploads(self, handler: FaultyHandler, name: str) -> Callable[[], None]:
        prefix = handler.seen.query.get("prefix", "")
        found = [(u.key, i, u.begun) for i, u in self.uploads.items() if u.bucket == name and u.key.startswith(prefix)]
        entries = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{i}</UploadId><Initiated>{_iso(begun)}</Initiated></Upload>"
            for key, i, begun in sorted(found)
        )
        text = f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{entries}</ListMultipartUploadsResult>"
        return _xml(handler, text)

    def _copy(self, handler: FaultyHandler, bucket: Bucket, name: str, key: str) -> Callable[[], None]:
        """CopyObject, UploadPartCopy."""
        if not self.copies:
            raise Refused("NotImplemented", 501)
        headers, query = handler.seen.headers, handler.seen.query
        source_bucket, _, source_key = unquote(headers["x-amz-copy-source"]).lstrip("/").partition("/")
        source = self._bucket(source_bucket).current(source_key)
        if source is None:
            raise Refused("NoSuchKey", 404)
        wanted = headers.get("x-amz-copy-source-if-match")
        if self.conditions and wanted is not None and wanted.strip('"') != source.etag:
            raise Refused("PreconditionFailed", 412)
        if "uploadId" in query:
            first, last = map(int, headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-"))
            data = source.data[first : last + 1]
            self._upload(name, key, query).parts[int(query["partNumber"])] = data
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            return _xml(handler, f"<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>")
        stored = self._store(bucket, key, source.data, source.checksums, None, source.metadata)
        return _xml(handler, f"<CopyObjectResult><ETag>&quot;{stored.etag}&quot;</ETag></CopyObjectResult>")

    def _delete_many(self, handler: FaultyHandler, bucket: Bucket, data: bytes) -> Callable[[], None]:
        root = ElementTree.fromstring(data)
        for element in root.iter():
            if element.tag.rpartition("}")[2] == "Key":
                self._delete(bucket, element.text or "", None)
        return _xml(handler, "<DeleteResult></DeleteResult>")

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
            ElementTree.SubElement(contents, "LastModified").text = _iso(stored.modified)
        for folder in sorted(folders):
            ElementTree.SubElement(ElementTree.SubElement(root, "CommonPrefixes"), "Prefix").text = folder
        return ElementTree.tostring(root)


def _xml(handler: FaultyHandler, text: str) -> Callable[[], None]:
    return lambda: handler.send(200, text.encode(), {"Content-Type": "application/xml"})


def _metadata(handler: FaultyHandler) -> dict[str, str]:
    return {name: value for name, value in handler.seen.headers.items() if name.startswith("x-amz-meta-")}


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _url(key: str) -> str:
    return quote(key, safe="/")


def _headers(stored: StoredObject, *, checksums: bool) -> dict[str, str]:
    modified = formatdate(stored.modified, usegmt=True)
    headers = {"ETag": f'"{stored.etag}"', "Accept-Ranges": "bytes", "Last-Modified": modified, **stored.metadata}
    if stored.version != "null":
        headers["x-amz-version-id"] = stored.version
    if checksums and stored.checksums:
        composite = any("-" in value for value in stored.checksums.values())
        headers |= {**stored.checksums, "x-amz-checksum-type": "COMPOSITE" if composite else "FULL_OBJECT"}
    return headers
