"""Requests to a Hugging Face hub, with the identity that huggingface_hub knows.

huggingface_hub's own download is not used: it checks sizes only and begins an interrupted file anew. Its `build_hf_headers`
is not used either, since that may ask the hub for a list of agents before the first real request.

Large files lie elsewhere, also those that are kept by Xet: the hub redirects to a signed address of its storage, or of the
bridge before it. That address is kept for the file's other parts, which spares the hub a request each, and asked for again
when it has expired. The token goes to the hub only. No message holds a token, the user part of an address, or the query of
a signed one.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import enginepress
from enginepress.errors import RecipeError, SourceError
from enginepress.json_text import parse_json
from enginepress.sources import Body, Interrupted
from enginepress.sources.asking import NO_JSON, ask_patiently, is_loopback, read_whole
from enginepress.sources.transfer.http import TIMEOUT_SECONDS, Answer, HttpClient, public_address

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_JSON_BYTES = 256 * 1024 * 1024
MAX_PAGES = 1000
MAX_REFUSED = 4
"""So often the storage may refuse an address that was just signed, one time after the other."""

TOGETHER_SECONDS = 0.3
"""Streams that are refused within this time are refused once."""

SIGNED_SECONDS = 600.0
"""So long the signed address of a file is used again, if it does not expire earlier."""


def endpoint_from_environment() -> str:
    """HF_ENDPOINT, read now: huggingface_hub reads it once, when it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise SourceError(f"{public_address(endpoint)!r} is no http address", where="HF_ENDPOINT", fix="set it, or unset it")
    return endpoint


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
        http: HttpClient | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.repo = repo
        self.page = f"{public_address(endpoint)}/{repo}"
        self._token_reference = token_reference
        self._pauses = pauses
        self.http = http or HttpClient(f"enginepress/{enginepress.__version__}", timeout=timeout)
        self._token: str | None = None
        self._private: dict[str, str] | None = None
        self._signed: dict[str, tuple[str, float]] = {}
        self._refused: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def json(self, route: str, revision: str, **query: str) -> Any:
        """The answer of `/api/models/<repo>/<route>/<revision>`.

        Raises:
            SourceError: saying what the hub refused and what to do, or that it cannot be reached.
        """
        return self._ask(self._address(route, revision, query), revision)[0]

    def listing(self, route: str, revision: str, **query: str) -> list[Any]:
        """All pages of a list. Raises SourceError as `json` does, and if a page is no list."""
        address: str | None = self._address(route, revision, query)
        found: list[Any] = []
        for _ in range(MAX_PAGES):
            if address is None:
                return found
            page, following = self._ask(address, revision)
            if not isinstance(page, list):
                raise SourceError("did not answer with a list", where=public_address(address), fix="check HF_ENDPOINT")
            found += page
            address = following
        raise SourceError(f"lists more than {MAX_PAGES} pages", where=self.page, fix="check HF_ENDPOINT")

    def _address(self, route: str, revision: str, query: Mapping[str, str]) -> str:
        address = f"{self.endpoint}/api/models/{self.repo}/{route}/{quote(revision, safe='')}"
        return address + ("?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in query.items()) if query else "")

    def commit(self, revision: str, etag: str | None = None) -> tuple[str | None, str | None]:
        """The commit that a branch or tag means now, and the answer's ETag, for one small request.

        Args:
            etag: of an earlier answer. If nothing has changed since, this is (None, etag).
        """
        address = f"{self.endpoint}/api/models/{self.repo}/revision/{quote(revision, safe='')}?expand=sha"
        headers = {} if etag is None else {"if-none-match": etag}

        def attempt() -> tuple[Any, str | None]:
            with self.http.get(address, headers, private=self._identity()) as answer:
                if answer.status == 304 and etag is not None:
                    return None, etag
                if answer.status >= 400:
                    raise self._refusal(answer, revision, address)
                raw = read_whole(answer, where=public_address(address))
                return parse_json(raw, where=public_address(address), problem=NO_JSON, fix="check HF_ENDPOINT"), answer.header(
                    "etag"
                ) or None

        data, new = ask_patiently(
            attempt,
            pauses=self._pauses,
            wait=self.http.pause,
            failed=lambda error: SourceError(
                f"the hub could not be asked: {error}", where=public_address(address), fix="check the network and HF_ENDPOINT"
            ),
        )
        if data is None:
            return None, new
        commit = data.get("sha") if isinstance(data, dict) else None
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise SourceError("the hub's answer names no commit", where=public_address(address), fix="check HF_ENDPOINT")
        return commit, new

    @contextmanager
    def file(self, commit: str, path: str, start: int, stop: int, size: int) -> Iterator[Body]:
        """Bytes `start` to `stop` of a file of this size.

        Raises:
            Interrupted: if another try may help.
            SourceError: if it will not.
        """
        address = f"{self.endpoint}/{self.repo}/resolve/{commit}/{quote(path)}"
        span = None if (start, stop) == (0, size) else (start, stop)
        signed = self._known_address(address)
        if signed is not None:
            with self.http.get(signed, span=span) as answer:
                if answer.status < 400 or _may_pass(answer.status):
                    yield self._body(answer, span, commit, address)
                    return
            self._signed.pop(address, None)
        with self._get(address, span) as answer:
            body = self._body(answer, span, commit, address)
            self._refused.pop(address, None)
            if self._is_elsewhere(answer.url):
                self._signed[address] = (answer.url, time.monotonic())
            yield body

    def _is_elsewhere(self, url: str) -> bool:
        """Whether the hub redirected to another server."""
        return urlsplit(url).netloc != urlsplit(self.endpoint).netloc

    def _known_address(self, address: str) -> str | None:
        found = self._signed.get(address)
        return found[0] if found is not None and time.monotonic() - found[1] < SIGNED_SECONDS else None

    # One request ------------------------------------------------------------------------------------------------------

    def _ask(self, address: str, revision: str) -> tuple[Any, str | None]:
        """The value that the hub answers with, and the address of the next page if there is one."""

        def attempt() -> tuple[bytes, str | None]:
            with self._get(address, None) as answer:
                self._body(answer, None, revision, address)
                return read_whole(answer, where=public_address(address), limit=MAX_JSON_BYTES), self._next_page(answer)

        raw, following = ask_patiently(
            attempt,
            pauses=self._pauses,
            wait=self.http.pause,
            failed=lambda error: SourceError(
                f"the hub could not be asked: {error}",
                where=public_address(address),
                fix="check the network, HF_ENDPOINT and the proxy settings, then run again",
            ),
        )
        value = parse_json(
            raw,
            where=public_address(address),
            problem="did not answer with JSON, so it is no hub",
            fix="check HF_ENDPOINT, and whether a proxy stands between",
        )
        return value, following

    def _next_page(self, answer: Answer) -> str | None:
        """As the Link header says. A page elsewhere is not followed: the token would be sent there."""
        match = re.search(r'<([^<>]+)>\s*;[^,]*\brel="?next"?', answer.header("link"))
        if match is None:
            return None
        address: str = urljoin(answer.url, match[1])
        if urlsplit(address)[:2] != urlsplit(self.endpoint)[:2]:
            raise SourceError("continues its list on another server", where=public_address(address), fix="check HF_ENDPOINT")
        return address

    @contextmanager
    def _get(self, address: str, span: tuple[int, int] | None) -> Iterator[Answer]:
        with self.http.get(address, span=span, private=self._identity()) as answer:
            yield answer

    def _body(self, answer: Answer, span: tuple[int, int] | None, revision: str, address: str) -> Body:
        if answer.status >= 400:
            raise self._refusal(answer, revision, address)
        return answer.body(span)

    def _identity(self) -> dict[str, str]:
        """Who is asking. The token is looked up when it is first needed."""
        with self._lock:
            if self._private is None:
                if is_offline():
                    raise SourceError(
                        "the hub may not be asked: HF_HUB_OFFLINE is set, and its cache does not have this",
                        where=self.page,
                        fix="unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or name a downloaded copy by file://",
                    )
                self._token = self._find_token()
                self._private = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
            return self._private

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
        if token is not None and not self.endpoint.startswith("https://") and not is_loopback(self.endpoint):
            if self._token_reference is None:
                return None  # one that happens to be there, for another hub; `_token_fix` says why it was not sent
            raise SourceError(
                f"{public_address(self.endpoint)} is no https address, and a token is never sent in the clear",
                where="HF_ENDPOINT",
                fix="write https://…, or leave source.token out",
            )
        return token

    # What went wrong --------------------------------------------------------------------------------------------------

    def _refusal(self, answer: Answer, revision: str, address: str) -> Exception:
        """The error for an answer of 400 and more. The hub says in a header what it means."""
        status, code = answer.status, answer.header("x-error-code")
        if _may_pass(status):
            problem = "it asks for fewer requests (429)" if status == 429 else f"it answers with status {status}"
            return Interrupted(problem, wait=answer.retry_after)
        if not code and "/resolve/" in address and status in (400, 401, 403, 404, 410) and self._is_elsewhere(answer.url):
            # The hub has just signed this address: its storage refuses it for another reason than who asks.
            return self._refusal_of_storage(status, address)
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
        if status == 401 and "invalid credentials" in answer.header("x-error-message").lower():
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

    def _refusal_of_storage(self, status: int, address: str) -> Exception:
        with self._lock:
            count, last = self._refused.get(address, (0, 0.0))
            now = time.monotonic()
            if not count or now - last > TOGETHER_SECONDS:
                count, last = count + 1, now
            self._refused[address] = (count, last)
        if count < MAX_REFUSED:
            return Interrupted(f"the hub's storage answers with status {status}")
        return SourceError(
            f"the hub's storage refuses it with status {status}, though the hub has just signed its address",
            where=public_address(address),
            fix="look whether a proxy or a firewall stands between, then run again",
        )

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
        clear = not self.endpoint.startswith("https://") and not is_loopback(self.endpoint)
        why = " and name the hub by https://: in the clear none is sent" if clear else ""
        return f"{what} in {self._token_reference[2:-1] if self._token_reference else 'HF_TOKEN'}{why}"


def is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def _may_pass(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500
