"""Checksums as S3 computes and compares them: of objects and of their parts, in headers and behind `aws-chunked` bodies."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Collection, Mapping

try:
    import awscrt.checksums as crt
except ImportError:
    crt = None

from tests.s3_server.signature import Refused

HASHES: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}
if crt is not None:
    HASHES["x-amz-checksum-crc32c"] = lambda data: crt.crc32c(data).to_bytes(4, "big")
    HASHES["x-amz-checksum-crc64nvme"] = lambda data: crt.crc64nvme(data).to_bytes(8, "big")


def checksums(data: bytes, name: str, part_bytes: int = 0) -> dict[str, str]:
    """As a header; with `part_bytes` that of the parts' checksums."""
    compute = HASHES[name]
    if not part_bytes:
        return {name: base64.b64encode(compute(data)).decode()}
    found = [compute(part) for part in _parts(data, part_bytes)]
    return {name: f"{base64.b64encode(compute(b''.join(found))).decode()}-{len(found)}"}


def parts_etag(data: bytes, part_bytes: int) -> str:
    digests = [hashlib.md5(part, usedforsecurity=False).digest() for part in _parts(data, part_bytes)]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _parts(data: bytes, part_bytes: int) -> list[bytes]:
    return [data[at : at + part_bytes] for at in range(0, len(data), part_bytes)] or [b""]


def received(headers: Mapping[str, str], raw: bytes, compares: Collection[str]) -> tuple[bytes, dict[str, str]]:
    """The body that was meant, and its checksums.

    Args:
        compares: headers whose digest must be right.

    Raises:
        Refused: if it is not what the request says that it is.
    """
    claimed = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    trailers: dict[str, str] = {}
    if claimed.startswith("STREAMING-"):
        raw, trailers = _unchunked(raw)
    elif claimed != "UNSIGNED-PAYLOAD" and "x-amz-content-sha256" in compares and claimed != hashlib.sha256(raw).hexdigest():
        raise Refused("XAmzContentSHA256Mismatch", 400)
    md5 = headers.get("content-md5")
    if (
        md5 is not None
        and "content-md5" in compares
        and base64.b64decode(md5) != hashlib.md5(raw, usedforsecurity=False).digest()
    ):
        raise Refused("BadDigest", 400)
    given = {name: value for name in HASHES if (value := headers.get(name) or trailers.get(name))}
    for name, value in given.items():
        if name in compares and base64.b64decode(value) != HASHES[name](raw):
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
