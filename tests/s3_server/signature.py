"""Checks AWS Signature Version 4: of a request's headers, and of a pre-signed address."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

MAX_SKEW_SECONDS = 900


class Refused(Exception):
    """Why a request is not let in: S3's code for it."""

    def __init__(self, code: str, status: int = 403) -> None:
        super().__init__(code)
        self.code, self.status = code, status


def check_signature(
    method: str, target: str, headers: Mapping[str, str], secrets: Mapping[str, str], *, anonymous: bool = False
) -> str | None:
    """The access key that signed this request; None for one that is not signed, where that is allowed.

    Args:
        target: path and query as they were sent.
        headers: names in lower case.
        secrets: secret keys by access key.

    Raises:
        Refused: unless the signature is right.
    """
    parts = urlsplit(target)
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(query)
    authorization = headers.get("authorization", "")
    if "X-Amz-Signature" in given:
        names, scope, date = given["X-Amz-SignedHeaders"], given["X-Amz-Credential"], given["X-Amz-Date"]
        signature, payload = given["X-Amz-Signature"], "UNSIGNED-PAYLOAD"
        query = [(k, v) for k, v in query if k != "X-Amz-Signature"]
        if _age(date) > int(given["X-Amz-Expires"]):
            raise Refused("AccessDenied")
    elif match := re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", authorization
    ):
        scope, names, signature = match.groups()
        date, payload = headers.get("x-amz-date", ""), headers.get("x-amz-content-sha256", "")
        if abs(_age(date)) > MAX_SKEW_SECONDS:
            raise Refused("RequestTimeTooSkewed")
    elif not authorization and anonymous:
        return None
    else:
        raise Refused("AccessDenied")
    key, *rest = scope.split("/")
    if key not in secrets:
        raise Refused("InvalidAccessKeyId")
    if "host" not in names.split(";") or len(rest) != 4 or rest[0] != date[:8] or rest[2:] != ["s3", "aws4_request"]:
        raise Refused("SignatureDoesNotMatch")
    canonical = "\n".join(
        [
            method,
            parts.path,
            "&".join(f"{_encode(k)}={_encode(v)}" for k, v in sorted(query)),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names.split(";")),
            "",
            names,
            payload,
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", date, "/".join(rest), digest])
    signing = f"AWS4{secrets[key]}".encode()
    for part in rest:
        signing = hmac.digest(signing, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(signing, text.encode(), "sha256").hex(), signature):
        raise Refused("SignatureDoesNotMatch")
    return key


def _encode(text: str) -> str:
    return quote(text, safe="-_.~")


def _age(date: str) -> float:
    """Seconds since a request says that it was made."""
    try:
        made = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise Refused("AccessDenied") from None
    return (datetime.datetime.now(datetime.timezone.utc) - made).total_seconds()
