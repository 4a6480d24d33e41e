"""Requests to an S3-compatible server, by boto3, for one bucket. In words when something is refused.

boto3 finds who is asking (AWS_ACCESS_KEY_ID, profiles, a role); if it finds nobody, requests are not signed, which public
buckets accept. Its own retries and checksums are off: trying again and hashing are done for all sources alike.
"""

from __future__ import annotations

import os
import re
import threading
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from enginepress.errors import EnginepressError, SourceError
from enginepress.sources import Body, Interrupted
from enginepress.sources.asking import ask_patiently
from enginepress.sources.transfer import public_address
from enginepress.sources.transfer.http import retry_after

TIMEOUT_SECONDS = 30
MAX_OBJECTS = 100_000
BLOCK = 256 * 1024

_PASSING = ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "InternalError", "ServiceUnavailable", "ThrottlingException")


@dataclass(frozen=True)
class S3Settings:
    """Which server, and how it is spoken to. See `source` in the recipe."""

    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    ca_bundle: str | None = None


@dataclass(frozen=True)
class Listed:
    """One object of a listing; `etag` without quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class ObjectHead:
    """What a server says of one object.

    Attributes:
        version: its version id in a bucket that keeps versions, else "".
        sha256: hex, if the server has one of the whole object.
        md5: hex, if the ETag is the content's MD5: uploaded in one part, and not encrypted with a key of its own.
    """

    size: int
    etag: str
    version: str
    sha256: str | None
    md5: str | None


class S3Client:
    """One bucket. May be used by many threads; connects when first asked.

    Args:
        pauses: seconds before each further attempt at a request for metadata.
    """

    def __init__(self, bucket: str, settings: S3Settings, *, pauses: Sequence[float] = (0.5, 1.0, 2.0)) -> None:
        self.bucket = bucket
        self.settings = settings
        self.endpoint = settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
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
                    found.append(Listed(entry["Key"], int(entry["Size"]), str(entry.get("ETag", "")).strip('"')))
            if len(found) > MAX_OBJECTS:
                raise SourceError(f"holds more than {MAX_OBJECTS:,} objects", where=where, fix="name the checkpoint's own folder")
            following = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not following or {"ContinuationToken": following} == token:
                return found
            token = {"ContinuationToken": following}

    def head(self, key: str) -> ObjectHead:
        """What the server says of an object as it is now, its checksum included where it has one."""
        where = f"s3://{self.bucket}/{key}"
        answer = self._ask("head_object", where, Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        etag = str(answer.get("ETag", "")).strip('"')
        version = str(answer.get("VersionId") or "")
        encrypted = "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        return ObjectHead(
            size=int(answer["ContentLength"]),
            etag=etag,
            version="" if version == "null" else version,
            sha256=_whole_sha256(answer),
            md5=etag if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted else None,
        )

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
            with self._in_words(where):
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
        with self._in_words(where):
            return getattr(boto, operation)(**query)

    def _connected(self) -> Any:
        if self._boto is None:
            with self._in_words(f"s3://{self.bucket}"):
                self._boto = _client(self.settings, self.endpoint)
        return self._boto

    @contextmanager
    def _in_words(self, where: str) -> Iterator[None]:
        """What boto3 raises, as Interrupted or SourceError. Its messages hold addresses, never keys; queries are cut off."""
        try:
            yield
        except (EnginepressError, Interrupted):
            raise
        except Exception as error:
            raise self._explained(error, where) from None

    def _explained(self, error: Exception, where: str) -> Exception:
        import botocore.exceptions as e

        if isinstance(error, e.ClientError):
            return self._refusal(error.response, where)
        text = re.sub(r"\w+://[^\s\"]+", lambda m: public_address(m[0]), str(error))
        if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError, e.ProfileNotFound, e.CredentialRetrievalError)):
            return SourceError(f"boto3 finds no credentials: {text}", where=where, fix=_CREDENTIALS)
        if isinstance(error, e.SSLError):
            return SourceError(
                "the server's certificate is not trusted", where=where, fix="name the certificates to trust in source.ca_bundle"
            )
        if isinstance(error, (e.HTTPClientError, e.ConnectionError, e.ResponseStreamingError, e.IncompleteReadError, OSError)):
            return Interrupted(f"{text} ({type(error).__name__})")
        if type(error).__module__.startswith("urllib3"):
            return Interrupted(f"the connection broke ({type(error).__name__})")
        if isinstance(error, (e.BotoCoreError, ValueError)):
            return SourceError(f"cannot be asked for: {text}", where=where, fix="check source.endpoint and source.region")
        return error

    def _refusal(self, response: Mapping[str, Any], where: str) -> Exception:
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(response.get("Error", {}).get("Code", ""))
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if status in (408, 425, 429) or status >= 500 or code in _PASSING:
            return Interrupted(
                f"it answers with status {status} {code}".rstrip(),
                wait=retry_after(headers.get("retry-after", ""), headers.get("date", "")),
            )
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return SourceError(f"the server does not accept these credentials ({code})", where=where, fix=_CREDENTIALS)
        if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
            return SourceError(f"the credentials have expired ({code})", where=where, fix="log in again, then run again")
        if code == "NoSuchBucket":
            return SourceError("there is no such bucket", where=where, fix="check `source.uri` and source.endpoint")
        if code == "NoSuchVersion":
            return SourceError(
                "this version of the object is not kept any more",
                where=where,
                fix="`enginepress lock RECIPE` takes the present one",
            )
        if status == 416:
            return SourceError("is shorter than the size that the server listed", where=where)
        if status == 403:
            return SourceError("the server forbids it (403)", where=where, fix=_CREDENTIALS)
        if status == 404:
            return SourceError("is not there", where=where, fix="check `source.uri`; it may have been removed meanwhile")
        fix = "check source.endpoint, source.region and source.path_style"
        return SourceError(f"the server refuses it with status {status} {code}".rstrip(), where=where, fix=fix)


# What boto3's clients cost to make, tenths of a second, is paid once for all sources of one server and identity.
_clients: dict[Any, Any] = {}
_clients_lock = threading.Lock()


def _client(settings: S3Settings, endpoint: str) -> Any:
    """boto3's client, which may be used by many threads.

    Raises:
        SourceError: if boto3 is not installed.
        Exception: what boto3 raises for a profile or an address that is none.
    """
    try:
        import boto3
        import botocore
        from botocore.config import Config
    except ImportError:
        raise SourceError("needs boto3, which is not installed", where="s3://", fix="pip install 'enginepress[s3]'") from None
    identity = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _clients_lock:
        found = _clients.get((settings, endpoint, identity))
        if found is None:
            session = boto3.session.Session()
            config = Config(
                signature_version="s3v4" if session.get_credentials() is not None else botocore.UNSIGNED,
                connect_timeout=TIMEOUT_SECONDS,
                read_timeout=TIMEOUT_SECONDS,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=64,
                s3={"addressing_style": "path" if settings.path_style or endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            found = _clients[settings, endpoint, identity] = session.client(
                "s3",
                endpoint_url=endpoint or None,
                region_name=settings.region or session.region_name or "us-east-1",
                verify=settings.ca_bundle,
                config=config,
            )
        return found


_CHANGED, _CHANGED_FIX = "was changed after it was resolved", "let whoever writes the folder finish, then run again"
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to an account that may read it"


def _whole_sha256(answer: Mapping[str, Any]) -> str | None:
    """The sha256 of the whole object. That of an upload in parts is a checksum of checksums, which nobody can recompute."""
    value = str(answer.get("ChecksumSHA256") or "")
    if not value or "-" in value or answer.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        raw = b64decode(value, validate=True)
    except (Base64Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None
