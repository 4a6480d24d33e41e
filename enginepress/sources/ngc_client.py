"""HTTP requests to NVIDIA's NGC, for one model: metadata, addresses, files. The routes themselves, no SDK.

    GET <api>/v2/org/<org>[/team/<team>]/models/<name>                                    the model, its latest version
    GET …/models/<name>/versions/<version>                                                the version
    GET …/models/<name>/versions/<version>/files?page-size=1000[&page-number=1]           paths and sizes, page by page
    GET …/models/<name>/<version>/files?path=<path>                                       a pre-signed address

Without a key the public routes are asked (guest mode): `/v2/models/<org>[/<team>]/<name>…` for metadata and
`/v2/models/org/<org>[/team/<team>]/<name>/<version>/files` for addresses. Keys that begin with `nvapi-` are sent as they are,
older ones are exchanged for a token that expires (`ngc_identity`).

A pre-signed address is asked for without any identity, and never appears in a message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import enginepress
from enginepress.errors import SourceError
from enginepress.json_text import parse_json
from enginepress.sources import Body, Interrupted
from enginepress.sources.asking import NO_JSON, ask_patiently, is_loopback, read_whole
from enginepress.sources.ngc_identity import NgcIdentity, base_address
from enginepress.sources.transfer import Answer, HttpClient, public_address

DEFAULT_API = "https://api.ngc.nvidia.com"
CATALOG = "https://catalog.ngc.nvidia.com"
PAGE_SIZE = 1000
MAX_FILES = 100_000
ADDRESS_SECONDS = 900.0
"""A pre-signed address is asked for anew after this time; NGC's are good for about an hour."""


class NgcClient:
    """Asks NGC about one model. May be used by many threads.

    Args:
        token_reference: `${NAME}` of the variable that holds the API key, or None for NGC_API_KEY, without which the
            public routes are asked.
        pauses: seconds before each further attempt at a request for metadata.
    """

    def __init__(
        self,
        org: str,
        team: str | None,
        name: str,
        *,
        token_reference: str | None = None,
        pauses: Sequence[float] = (0.5, 1.0, 2.0),
        http: HttpClient | None = None,
    ) -> None:
        self.org, self.team, self.name = org, team, name
        self.api = base_address("NGC_CLI_API_URL", DEFAULT_API)
        self._pauses = pauses
        self.http = http or HttpClient(f"enginepress/{enginepress.__version__}")
        self._identity = NgcIdentity(org, team, token_reference, self.http)
        self._lock = threading.Lock()
        self._addresses: dict[tuple[str, str], tuple[str, float]] = {}

    @property
    def page(self) -> str:
        """Where people read about the model and accept its terms."""
        team = f"/teams/{self.team}" if self.team else ""
        return f"{CATALOG}/orgs/{self.org}{team}/models/{self.name}"

    def latest_version(self, etag: str | None = None) -> tuple[str | None, str | None]:
        """The version that `latest` means now, and the answer's ETag; (None, etag) if nothing has changed since `etag`."""
        answer, new = self._metadata("?resolve-labels=false", etag=etag)
        if answer is None:
            return None, etag
        model = answer.get("model")
        latest = model.get("latestVersionIdStr") if isinstance(model, dict) else None
        if not isinstance(latest, str) or not latest:
            raise SourceError("has no version", where=self.page, fix="name a model that has one")
        return latest, new

    def version(self, version: str) -> dict[str, Any]:
        """What NGC says of a version that can be downloaded."""
        found = self._json(f"/versions/{quote(version, safe='')}", version).get("modelVersion")
        if not isinstance(found, dict):
            raise self._not_understood("describes no version")
        status = found.get("status")
        if status != "UPLOAD_COMPLETE":
            raise SourceError(
                f"version {version} cannot be downloaded: its upload is not complete (status {status})",
                where=self.page,
                fix="wait until its owner has finished, or name another version",
            )
        return found

    def files(self, version: str) -> list[dict[str, Any]]:
        """The files of a version as NGC lists them, all pages."""
        route, found, page = f"/versions/{quote(version, safe='')}/files", [], 0
        while True:
            query = {"page-size": PAGE_SIZE, **({"page-number": page} if page else {})}
            answer = self._json(f"{route}?{urlencode(query)}", version)
            listed, info = answer.get("modelFiles"), answer.get("paginationInfo") or {}
            if not isinstance(listed, list) or not all(isinstance(f, dict) for f in listed) or not isinstance(info, dict):
                raise self._not_understood("lists no files")
            found += listed
            page += 1
            pages, total = info.get("totalPages", 1), info.get("totalResults", len(found))
            if len(found) > MAX_FILES:
                raise SourceError(f"lists more than {MAX_FILES:,} files", where=self.page)
            if not isinstance(pages, int) or page >= pages or not listed:
                if isinstance(total, int) and total != len(found):
                    raise self._not_understood(f"lists {len(found):,} files where it announces {total:,}")
                return found

    @contextmanager
    def file(self, version: str, path: str, start: int, stop: int, size: int) -> Iterator[Body]:
        """Bytes `start` to `stop` of a file of this size.

        Raises:
            Interrupted: if another try may help; an address that has expired is forgotten for it.
            SourceError: if it will not.
        """
        address = self._address(version, path)
        span = None if (start, stop) == (0, size) else (start, stop)
        with self.http.get(address, span=span) as answer:
            if answer.status in (400, 401, 403, 410):
                # Object stores say 403 or 400 to an address whose time is over. A new one settles whether that was it.
                self._forget(version, path, address)
                raise Interrupted(f"the pre-signed address was refused ({answer.status})")
            if answer.status == 404:
                self._forget(version, path, address)
                raise SourceError("is listed, and is not there", where=f"{self.page}:{version}/{path}")
            if answer.status == 416:
                raise SourceError("is shorter than the size that NGC lists", where=f"{self.page}:{version}/{path}")
            if answer.status not in (200, 206):
                raise Interrupted(f"the server answers with status {answer.status}", wait=answer.retry_after)
            yield answer.body(span)

    # Pre-signed addresses ---------------------------------------------------------------------------------------------

    def _address(self, version: str, path: str) -> str:
        key = (version, path)
        with self._lock:
            known = self._addresses.get(key)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        answer = self._json("", version, addresses_of=path)
        urls, paths = answer.get("urls"), answer.get("filepath")
        if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str) or paths not in ([path], None):
            raise self._not_understood(f"gives no address of {path!r}")
        if not urls[0].startswith("https://") and not is_loopback(urls[0]):
            raise self._not_understood("gives an address that is not https")
        with self._lock:
            self._addresses[key] = (urls[0], time.monotonic() + ADDRESS_SECONDS)
        return urls[0]

    def _forget(self, version: str, path: str, address: str) -> None:
        with self._lock:
            known = self._addresses.get((version, path))
            if known is not None and known[0] == address:
                del self._addresses[version, path]

    # Metadata ---------------------------------------------------------------------------------------------------------

    def _json(self, route: str, version: str | None = None, *, addresses_of: str | None = None) -> dict[str, Any]:
        answer, _ = self._metadata(route, version, addresses_of=addresses_of)
        assert answer is not None
        return answer

    def _metadata(
        self, route: str, version: str | None = None, *, addresses_of: str | None = None, etag: str | None = None
    ) -> tuple[dict[str, Any] | None, str | None]:
        refused = 0

        def attempt() -> tuple[bytes | None, str | None]:
            nonlocal refused
            token = self._identity.token()
            url = self._url(route, version, addresses_of, guest=token is None)
            headers = {"accept": "application/json", **({} if etag is None else {"if-none-match": etag})}
            private = {} if token is None else {"authorization": f"Bearer {token}"}
            with self.http.get(url, headers, private=private) as answer:
                if answer.status == 304 and etag is not None:
                    return None, etag
                if answer.status == 401 and token is not None and not refused:
                    # A token may expire before its time. A new one settles whether that was it.
                    refused += 1
                    self._identity.forget(token)
                    raise Interrupted("the token was refused (401)")
                if answer.status != 200:
                    raise self._refusal(answer, version, guest=token is None)
                return read_whole(answer, where=self.page), answer.header("etag") or None

        raw, new = ask_patiently(
            attempt, pauses=self._pauses, wait=self.http.pause, failed=lambda e: self._unreachable(self.api, e)
        )
        if raw is None:
            return None, new
        data = parse_json(raw, where=self.api, problem=NO_JSON, fix="check NGC_CLI_API_URL, and whether a proxy stands between")
        if not isinstance(data, dict):
            raise self._not_understood("is no JSON object")
        return data, new

    def _url(self, route: str, version: str | None, addresses_of: str | None, *, guest: bool) -> str:
        org, name = quote(self.org, safe=""), quote(self.name, safe="")
        team = quote(self.team, safe="") if self.team else ""
        private = f"org/{org}" + (f"/team/{team}" if team else "")
        if addresses_of is not None:
            base = f"models/{private}/{name}" if guest else f"{private}/models/{name}"
            return f"{self.api}/v2/{base}/{quote(version or '', safe='')}/files?{urlencode({'path': addresses_of})}"
        base = f"models/{org}/" + (f"{team}/" if team else "") + name if guest else f"{private}/models/{name}"
        return f"{self.api}/v2/{base}{route}"

    # What went wrong --------------------------------------------------------------------------------------------------

    def _refusal(self, answer: Answer, version: str | None, *, guest: bool) -> Exception:
        status = answer.status
        key = f"set {self._identity.variable}" if guest else f"use a key that may read it in {self._identity.variable}"
        named = f"version {version}" if version else "this model"
        if status in (408, 425, 429) or status >= 500:
            problem = "it asks for fewer requests (429)" if status == 429 else f"it answers with status {status}"
            return Interrupted(problem, wait=answer.retry_after)
        if status == 401 and not guest:
            return SourceError("NGC does not know this key", where=self.page, fix=f"replace the key in {self._identity.variable}")
        if status in (412, 451):
            return SourceError(
                "its licence terms have not been accepted",
                where=self.page,
                fix=f"open {self.page}, sign in with the account that the key belongs to, accept the terms, run again",
            )
        if status == 402:
            return SourceError("needs a subscription that this account does not have", where=self.page, fix=key)
        if status in (401, 403):
            problem = "is not public" if guest else f"this account is not entitled to {named}"
            return SourceError(problem, where=self.page, fix=f"{key}; the org's administrator or {self.page} grants access")
        if status == 404:
            hidden = "does not exist, or is not public" if guest else "does not exist, or this key may not see it"
            return SourceError(f"{named} {hidden}", where=self.page, fix=f"check org, team, name and version; {key}")
        return SourceError(f"NGC refuses it with status {status}", where=self.page, fix="check NGC_CLI_API_URL")

    def _unreachable(self, address: str, error: Interrupted) -> SourceError:
        return SourceError(
            f"NGC could not be asked: {error}",
            where=public_address(address),
            fix="check the network, NGC_CLI_API_URL and the proxy settings, then run again",
        )

    def _not_understood(self, problem: str) -> SourceError:
        return SourceError(f"NGC's answer {problem}", where=self.page, fix="check NGC_CLI_API_URL")
