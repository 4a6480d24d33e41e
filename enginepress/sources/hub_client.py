"""HTTP requests to a Hugging Face hub, by huggingface_hub's session and its identity.

huggingface_hub 0.34 has a session of requests, 1.x of httpx and 2.x of httpx2; the few lines that differ are here. Its own
download is not used: it checks sizes only. Its `build_hf_headers` is not used either, since that may ask the hub for a
list of agents before the first real request.

No message holds a token: not the header's value, not the user part of an address, not the query of a signed redirect.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import enginepress
from enginepress.errors import RecipeError, SourceError
from enginepress.sources import Body, Interrupted

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 30.0
MAX_WAIT_SECONDS = 60.0
MAX_JSON_BYTES = 256 * 1024 * 1024
_BLOCK = 64 * 1024


def endpoint_from_environment() -> str:
    """HF_ENDPOINT, read now: huggingface_hub reads it once, when it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise SourceError(f"{public_address(endpoint)!r} is no http address", where="HF_ENDPOINT", fix="set it, or unset it")
    return endpoint


def public_address(url: str) -> str:
    """An address fit to be shown: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class HubClient:
    """Asks one hub about one repository.

    Args:
        endpoint: the hub's address.
        repo: `org/name`.
        token_reference: `${NAME}` of the environment variable that holds the token; None for huggingface_hub's own
            (HF_TOKEN, or the one that `hf auth login` stored).
        pauses: seconds before each further attempt at an API request.
    """

    def __init__(
        self,
        endpoint: str,
        repo: str,
        *,
        token_reference: str | None = None,
        pauses: Sequence[float] = (0.5, 1.0, 2.0),
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.endpoint = endpoint
        self.repo = repo
        self.page = f"{public_address(endpoint)}/{repo}"
        self._token_reference = token_reference
        self._pauses = pauses
        self._timeout = timeout
        self._headers: dict[str, str] | None = None
        self._token: str | None = None

    def json(self, route: str, revision: str, **query: str) -> Any:
        """The answer of `/api/models/<repo>/<route>/<revision>`.

        Raises:
            SourceError: saying what the hub refused and what to do, or that it cannot be reached.
        """
        address = f"{self.endpoint}/api/models/{self.repo}/{route}/{quote(revision, safe='')}"
        if query:
            address += "?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in query.items())
        raw = self._patiently(lambda: self._read(address, revision), address)
        try:
            return json.loads(raw)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            raise SourceError(
                "did not answer with JSON, so it is no hub",
                where=public_address(address),
                fix="check HF_ENDPOINT, and whether a proxy stands between",
            ) from None

    @contextmanager
    def file(self, commit: str, path: str, start: int, stop: int, size: int) -> Iterator[Body]:
        """Bytes `start` to `stop` of a file of this size.

        Raises:
            Interrupted: if another try may help.
            SourceError: if it will not.
        """
        address = f"{self.endpoint}/{self.repo}/resolve/{commit}/{quote(path)}"
        span = None if (start, stop) == (0, size) else (start, stop)
        with self._get(address, commit, span) as body:
            yield body

    # One request ------------------------------------------------------------------------------------------------------

    def _patiently(self, attempt: Callable[[], bytes], address: str) -> bytes:
        for pause in [*self._pauses, None]:
            try:
                return attempt()
            except Interrupted as error:
                if pause is None:
                    raise SourceError(
                        f"the hub could not be asked: {error}",
                        where=public_address(address),
                        fix="check the network, HF_ENDPOINT and the proxy settings, then run again",
                    ) from None
                time.sleep(max(pause, error.wait or 0))
        raise AssertionError("the last attempt returns or raises")

    def _read(self, address: str, revision: str) -> bytes:
        with self._get(address, revision, None) as body:
            raw = bytearray()
            for block in body.blocks:
                raw += block
                if len(raw) > MAX_JSON_BYTES:
                    raise SourceError(f"answers with more than {MAX_JSON_BYTES:,} bytes", where=public_address(address))
            return bytes(raw)

    @contextmanager
    def _get(self, address: str, revision: str, span: tuple[int, int] | None) -> Iterator[Body]:
        headers = {**self._identity(), "accept-encoding": "identity"}
        if span is not None:
            headers["range"] = f"bytes={span[0]}-{span[1] - 1}"
        failures = _failures()
        with ExitStack() as stack:
            try:
                status, answer, blocks = stack.enter_context(_open(address, headers, self._timeout))
            except failures as error:
                raise Interrupted(self._describe(error)) from None
            if status >= 400:
                raise self._refusal(status, answer, revision, address)
            if answer.get("content-encoding", "identity") != "identity":
                raise Interrupted("the server sent a compressed answer although it was asked not to")
            # Errors of whoever reads the body, such as a full disk, pass through here untouched.
            yield Body(_start(status, answer, span), self._blocks(blocks, failures), _version(answer))

    def _blocks(self, blocks: Iterator[bytes], failures: tuple[type[Exception], ...]) -> Iterator[bytes]:
        try:
            yield from blocks
        except failures as error:
            raise Interrupted(self._describe(error)) from None

    def _identity(self) -> dict[str, str]:
        """Who is asking. The token is looked up when it is first needed."""
        if self._headers is None:
            if _is_offline():
                raise SourceError(
                    "the hub may not be asked: HF_HUB_OFFLINE is set",
                    where=self.page,
                    fix="unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or name a downloaded copy by file://",
                )
            self._token = self._find_token()
            import huggingface_hub

            agent = f"enginepress/{enginepress.__version__}; hf_hub/{huggingface_hub.__version__}"
            self._headers = {"user-agent": agent}
            if self._token is not None:
                self._headers["authorization"] = f"Bearer {self._token}"
        return self._headers

    def _find_token(self) -> str | None:
        if self._token_reference is None:
            from huggingface_hub import constants, get_token

            name, token = "HF_TOKEN", None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        else:
            name = self._token_reference[2:-1]
            token = os.environ.get(name, "").strip()
            if not token:
                raise RecipeError(
                    f"the environment variable {name} is not set or empty", where="source.token", fix=f"export {name}=hf_…"
                )
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise SourceError("holds no token: it has spaces or other characters that no token has", where=name)
        return token

    # What went wrong --------------------------------------------------------------------------------------------------

    def _describe(self, error: Exception) -> str:
        """A failed request in words, without anything secret that a library put into its message."""
        kind = type(error).__name__
        if "Timeout" in kind:
            return f"no answer within {self._timeout:g} s"
        text = " ".join(str(error).split())
        text = re.sub(r"\w+://\S+", lambda match: public_address(match[0]), text)
        if self._token is not None:
            text = text.replace(self._token, "***")
        return f"{text or 'the connection broke'} ({kind})"

    def _refusal(self, status: int, answer: Any, revision: str, address: str) -> Exception:
        """The error for an answer of 400 and more. The hub says in a header what it means."""
        code = answer.get("x-error-code", "")
        if status in (408, 425, 429) or status >= 500:
            problem = "it asks for fewer requests (429)" if status == 429 else f"it answers with status {status}"
            return Interrupted(problem, wait=_retry_after(answer))
        if code == "GatedRepo":
            return self._gated(status)
        if status == 416:
            return SourceError("is shorter than the size that the hub published", where=public_address(address))
        if code == "RevisionNotFound":
            return SourceError(
                f"has no branch, tag or commit {revision!r}",
                where=self.page,
                fix="name one after the @, or leave it out for main",
            )
        if code == "EntryNotFound":
            return SourceError("is not in the repository at this commit", where=public_address(address))
        if status == 401 and "invalid credentials" in answer.get("x-error-message", "").lower():
            return SourceError("the hub does not know this token", where=self.page, fix=self._token_fix("replace the token"))
        if status in (401, 404):
            fix = "check the name" + ("" if self._token else "; if it is private, " + self._token_fix("give a token"))
            hidden = "does not exist, or this token may not see it" if self._token else "does not exist, or is private"
            return SourceError(hidden, where=self.page, fix=fix)
        if status == 403:
            return SourceError(
                "the hub forbids it (403)", where=self.page, fix=self._token_fix("use a token that may read this repository")
            )
        return SourceError(f"the hub refuses it with status {status}", where=public_address(address), fix="check HF_ENDPOINT")

    def _gated(self, status: int) -> SourceError:
        if status == 401 or self._token is None:
            return SourceError(
                "is gated, and no valid token was sent",
                where=self.page,
                fix=f"accept its terms at {self.page}, then " + self._token_fix("give a token of that account"),
            )
        return SourceError(
            "is gated, and the token's account has not been let in",
            where=self.page,
            fix=f"accept its terms at {self.page} with the account that the token belongs to, and wait for its owners' consent",
        )

    def _token_fix(self, what: str) -> str:
        return f"{what} in {self._token_reference[2:-1] if self._token_reference else 'HF_TOKEN'}"


# What differs between versions of huggingface_hub ---------------------------------------------------------------------


def _session() -> Any:
    from huggingface_hub import utils

    hub: Any = utils
    return hub.get_session()


@contextmanager
def _open(address: str, headers: dict[str, str], timeout: float) -> Iterator[tuple[int, Any, Iterator[bytes]]]:
    """Status, headers and body of an answer, redirects followed; the token goes to no other host."""
    session = _session()
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", address, headers=headers, timeout=timeout, follow_redirects=True) as response:
            yield response.status_code, response.headers, response.iter_raw()
    else:
        with session.get(address, headers=headers, timeout=timeout, stream=True) as response:
            yield response.status_code, response.headers, response.iter_content(_BLOCK)


def _failures() -> tuple[type[Exception], ...]:
    """What the session raises when a connection fails."""
    package: Any = sys.modules[type(_session()).__module__.partition(".")[0]]
    return (getattr(package, "RequestException", None) or package.HTTPError, getattr(package, "InvalidURL", OSError), OSError)


def _is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


# Headers --------------------------------------------------------------------------------------------------------------


def _start(status: int, answer: Any, span: tuple[int, int] | None) -> int:
    """Where the body begins."""
    if status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", answer.get("content-range", ""))
    if span is None or match is None or int(match[1]) != span[0]:
        raise Interrupted("the server sent another part of the file than the one it was asked for")
    return span[0]


def _version(answer: Any) -> str | None:
    """A strong ETag; a weak one does not promise the same bytes."""
    value = answer.get("etag", "")
    return value if value.startswith('"') else None


def _retry_after(answer: Any) -> float | None:
    value = answer.get("retry-after", "")
    return min(float(value), MAX_WAIT_SECONDS) if re.fullmatch(r"\d{1,6}", value) else None
