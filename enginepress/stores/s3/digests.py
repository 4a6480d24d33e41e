"""What goes with the bytes of a request so that the server can compare them.

payload         their sha256, which is signed with the request (x-amz-content-sha256); processors do it quickly
md5             Content-MD5, the oldest, which takes more time than all else that is done with the bytes
sha256, crc32   checksum headers
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

DigestKind = Literal["payload", "md5", "sha256", "crc32", "none"]
SIGNED = "SignedPayload"
"""Not a parameter of boto3's: `StoreClient` has the payload signed where it stands, with the sha256 that it names, if it does."""

ALGORITHMS = {"sha256": "SHA256", "crc32": "CRC32"}
_PARAMETERS = {"md5": "ContentMD5", "sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32"}


class Body(bytearray):
    """Bytes to be sent. Where their sha256 is known, the request is signed with that one, and they are not hashed again
    (`enginepress.s3_access`)."""

    sha256 = ""


def digest_parameters(
    kind: DigestKind, data: bytes | bytearray | memoryview, *, md5: bytes | None = None, sha256: str = ""
) -> dict[str, str]:
    """boto3's parameters for these bytes. Also what completes an upload in parts, except for MD5.

    Args:
        md5: of the data, where it is known already.
        sha256: of the data in hex, where it is known already.
    """
    if kind == "none":
        return {}
    if kind == "payload":
        return {SIGNED: sha256}
    if kind == "md5":
        raw = md5 or md5_of(data)
    elif kind == "sha256":
        raw = bytes.fromhex(sha256) if sha256 else hashlib.sha256(data).digest()
    else:
        raw = zlib.crc32(data).to_bytes(4, "big")
    return {_PARAMETERS[kind]: b64encode(raw).decode()}


def completing(parameters: dict[str, str]) -> dict[str, str]:
    """Of a part's parameters those that are named again when the parts are put together."""
    return {name: value for name, value in parameters.items() if name.startswith("Checksum")}


def empty_md5() -> hashlib._Hash:
    """MD5 against accidents on the way, which is what S3 servers compare; releases are identified by sha256."""
    return hashlib.md5(usedforsecurity=False)


def md5_of(data: bytes | bytearray | memoryview) -> bytes:
    digest = empty_md5()
    digest.update(data)
    return digest.digest()


def etag_of(parts: Sequence[bytes], *, in_parts: bool) -> str:
    """The ETag of an object that was sent in one piece, or in parts with these MD5s."""
    if not in_parts:
        return parts[0].hex()
    return f"{md5_of(b''.join(parts)).hex()}-{len(parts)}"
