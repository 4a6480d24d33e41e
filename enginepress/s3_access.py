"""What everybody who speaks to an S3-compatible server shares: settings, boto3's client, refusals in words.

boto3 finds who is asking (AWS_ACCESS_KEY_ID, profiles, a role); if it finds nobody, requests are not signed, which public
buckets accept. Its own retries and checksums are off: sources and stores try again and hash themselves.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import enginepress
from enginepress.errors import EnginepressError
from enginepress.sources import Interrupted
from enginepress.sources.transfer import public_address
from enginepress.sources.transfer.http import retry_after

TIMEOUT_SECONDS = 30

_PASSING = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException")


@dataclass(frozen=True)
class S3Settings:
    """Which server, and how it is spoken to. See `source` and `stores` in the recipe."""

    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    ca_bundle: str | None = None

    def address(self) -> str:
        """The server's address; "" for Amazon's own."""
        return self.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@dataclass(frozen=True)
class Words:
    """How an error about a request is told.

    Attributes:
        kind: what is raised.
        fields: the recipe's field whose keys `endpoint`, `region` and so on are, as `source`.
        address: the field that names bucket and folder.
        account: what the account must be allowed to do.
    """

    kind: type[EnginepressError]
    fields: str
    address: str
    account: str

    @property
    def credentials(self) -> str:
        return f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to an account that may {self.account}"


@contextmanager
def in_words(where: str, words: Words) -> Iterator[None]:
    """What boto3 raises, as Interrupted or an error of `words`. Messages hold addresses, never keys; queries are cut off."""
    try:
        yield
    except (EnginepressError, Interrupted):
        raise
    except Exception as error:
        raise explained(error, where, words) from None


def explained(error: Exception, where: str, words: Words) -> Exception:
    """The error to raise instead: Interrupted if another try may help."""
    import botocore.exceptions as e

    if isinstance(error, e.ClientError):
        return _refusal(error.response, where, words)
    text = re.sub(r"\w+://[^\s\"]+", lambda m: public_address(m[0]), str(error))
    if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError, e.ProfileNotFound, e.CredentialRetrievalError)):
        return words.kind(f"boto3 finds no credentials: {text}", where=where, fix=words.credentials)
    if isinstance(error, e.SSLError):
        return words.kind(
            "the server's certificate is not trusted",
            where=where,
            fix=f"name the certificates to trust in {words.fields}.ca_bundle",
        )
    if isinstance(error, (e.HTTPClientError, e.ConnectionError, e.ResponseStreamingError, e.IncompleteReadError, OSError)):
        return Interrupted(f"{text} ({type(error).__name__})")
    if type(error).__module__.startswith("urllib3"):
        return Interrupted(f"the connection broke ({type(error).__name__})")
    if isinstance(error, (e.BotoCoreError, ValueError)):
        fix = f"check {words.fields}.endpoint and {words.fields}.region"
        return words.kind(f"cannot be asked for: {text}", where=where, fix=fix)
    if isinstance(error, RecursionError):  # boto3 looks for the bucket's region, and is sent elsewhere with that, too
        fix = f"check {words.fields}.endpoint (http or https?) and {words.fields}.region"
        return words.kind("the server sends every request elsewhere (a redirect)", where=where, fix=fix)
    return error


def _refusal(response: Mapping[str, Any], where: str, words: Words) -> Exception:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(response.get("Error", {}).get("Code", ""))
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if status in (408, 425, 429) or status >= 500 or code in _PASSING:
        return Interrupted(
            f"it answers with status {status} {code}".rstrip(),
            wait=retry_after(headers.get("retry-after", ""), headers.get("date", "")),
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return words.kind(f"the server does not accept these credentials ({code})", where=where, fix=words.credentials)
    if code == "RequestTimeTooSkewed":
        problem = "this machine's clock is more than 15 minutes from the server's"
        return words.kind(problem, where=where, fix="set the clock (NTP does it), then run again")
    if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return words.kind(f"the credentials have expired ({code})", where=where, fix="log in again, then run again")
    if code == "NoSuchBucket":
        return words.kind(
            "there is no such bucket", where=where, fix=f"check {words.address} and {words.fields}.endpoint (or AWS_ENDPOINT_URL)"
        )
    if code == "NoSuchVersion":
        return words.kind(
            "this version of the object is not kept any more",
            where=where,
            fix="`enginepress lock RECIPE` takes the present one",
        )
    if status == 416:
        return words.kind("is shorter than the size that the server listed", where=where)
    if status == 403 and "quota" in code.lower():
        return words.kind(f"the quota is used up ({code})", where=where, fix="free some space, or name another place")
    if status == 403:
        return words.kind("the server forbids it (403)", where=where, fix=words.credentials)
    if status == 404:
        return words.kind("is not there", where=where, fix=f"check {words.address}; it may have been removed meanwhile")
    fix = f"check {words.fields}.endpoint (or AWS_ENDPOINT_URL), region and path_style there, and the credentials"
    return words.kind(f"the server refuses it with status {status} {code}".rstrip(), where=where, fix=fix)


# What boto3's clients cost to make, tenths of a second, is paid once for all users of one server and identity.
_clients: dict[Any, Any] = {}
_clients_lock = threading.Lock()

_KNOWN = "enginepress-s3v4"
"""The name that botocore knows our way of signing by."""


def boto_client(settings: S3Settings, words: Words, *, sign_bodies: bool | None = None) -> Any:
    """boto3's client, which may be used by many threads.

    Args:
        sign_bodies: whether the sha256 of each body is signed with its request. False where every body comes with another
            digest in a header that is signed; None: as boto3 does, which leaves it out over https.

    Raises:
        EnginepressError: of `words`, if boto3 is not installed.
        Exception: what boto3 raises for a profile or an address that is none.
    """
    try:
        import boto3
        import botocore
        from botocore.config import Config
    except ImportError:
        raise words.kind("needs boto3, which is not installed", where="s3://", fix="pip install 'enginepress[s3]'") from None
    endpoint = settings.address()
    identity = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _clients_lock:
        found = _clients.get((settings, endpoint, identity, sign_bodies))
        if found is None:
            session = boto3.session.Session()
            config = Config(
                # One that is given: botocore puts its own together anew for each request, from dozens of components.
                user_agent=f"enginepress/{enginepress.__version__} boto3/{boto3.__version__} botocore/{botocore.__version__}",
                signature_version="s3v4" if session.get_credentials() is not None else botocore.UNSIGNED,
                connect_timeout=TIMEOUT_SECONDS,
                read_timeout=TIMEOUT_SECONDS,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=64,
                s3={
                    "addressing_style": "path" if settings.path_style or endpoint else "auto",
                    **({} if sign_bodies is None else {"payload_signing_enabled": sign_bodies}),
                },
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            found = _clients[settings, endpoint, identity, sign_bodies] = session.client(
                "s3",
                endpoint_url=endpoint or None,
                region_name=settings.region or session.region_name or "us-east-1",
                verify=settings.ca_bundle,
                config=config,
            )
            if sign_bodies:
                _sign_with_known_digests(found)
        return found


def _sign_with_known_digests(client: Any) -> None:
    """A body that names its `sha256` is not hashed once more to be signed: the server compares it with what arrives."""
    from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth

    if _KNOWN not in AUTH_TYPE_MAPS:

        class KnownPayload(S3SigV4Auth):  # type: ignore[misc]
            def payload(self, request: Any) -> str:
                return getattr(request.body, "sha256", "") or str(super().payload(request))

        AUTH_TYPE_MAPS[_KNOWN] = KnownPayload

    def choose(signature_version: Any = None, **_: Any) -> str | None:
        return _KNOWN if signature_version in ("s3v4", "v4") else None  # not in the place of any other kind

    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register_first(f"choose-signer.s3.{operation}", choose)
