"""Plain HTTP(S) requests: connections that are kept, proxies, redirects that take no secret along.

For what only asks and reads. It needs no package, so that a source costs no import that the core does not have, and it is
quick: `enginepress outdated` asks a thousand times. One client may be used by many threads.

Proxies come from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), trusted certificates from `ca_bundle`, else from
REQUESTS_CA_BUNDLE or SSL_CERT_FILE, else from the system.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import enginepress
from enginepress.errors import SourceError
from enginepress.sources import Interrupted

TIMEOUT_SECONDS = 30.0
MAX_REDIRECTS = 5
MAX_WAIT_SECONDS = 60.0
MAX_JSON_BYTES = 64 * 1024 * 1024
BLOCK = 256 * 1024

_IDLE = 64
_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")
_Place = tuple[str, str, int]


@dataclass(frozen=True)
class Answer:
    """What a server said. Header names are in lower case; `blocks` are the body, to be read inside the context only."""

    status: int
    headers: Mapping[str, str]
    blocks: Iterator[bytes]

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to be left alone, if it says so."""
        value = self.headers.get("retry-after", "")
        return min(float(value), MAX_WAIT_SECONDS) if re.fullmatch(r"\d{1,6}", value) else None

    def read(self, limit: int = MAX_JSON_BYTES) -> bytes:
        """The whole body.

        Raises:
            Interrupted: if it is shorter than announced.
            ValueError: if it is longer than `limit`.
        """
        raw = bytearray()
        for block in self.blocks:
            raw += block
            if len(raw) > limit:
                raise ValueError(f"answers with more than {limit:,} bytes")
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and len(raw) != int(announced):
            raise Interrupted("the answer ended early")
        return bytes(raw)


class HttpClient:
    """Sends GET requests.

    Args:
        ca_bundle: file with the certificates to trust, or None.
        timeout: seconds that a server may be silent, at the start and in the middle.
    """

    def __init__(self, *, ca_bundle: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self._ca_bundle = ca_bundle
        self._timeout = timeout
        self._idle: dict[_Place, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """The answer to a GET, redirects followed. What identifies the asker goes to no other host than the first.

        Raises:
            Interrupted: if the connection failed, also while the body is read.
            SourceError: for what no further try will mend: an address or a redirect that cannot be followed.
        """
        agent = {"user-agent": f"enginepress/{enginepress.__version__}", "accept-encoding": "identity"}
        sent: Mapping[str, str] = {**agent, **(headers or {})}
        for _ in range(MAX_REDIRECTS + 1):
            place, connection, response = self._ask(url, sent)
            if response.status not in (301, 302, 303, 307, 308):
                break
            self._drain(place, connection, response)
            url, sent = self._follow(url, place, response.getheader("location") or "", sent)
        else:
            raise SourceError("redirects in a circle", where=public_address(url))
        answer = {k.lower(): v for k, v in response.getheaders()}
        finished = False
        try:
            yield Answer(response.status, answer, _blocks(response, self._timeout))
            finished = response.isclosed()
        finally:
            self._give_back(place, connection, keep=finished and not response.will_close)

    def close(self) -> None:
        with self._lock:
            idle = [c for connections in self._idle.values() for c in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()

    # One request ------------------------------------------------------------------------------------------------------

    def _ask(self, url: str, headers: Mapping[str, str]) -> tuple[_Place, http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        place = _place(url)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        proxy = _proxy(place)
        if proxy is not None and place[0] == "http":
            target = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
            headers = {**headers, **_proxy_identity(proxy)}
        while True:
            kept = self._take(place)
            connection = kept or self._connection(place, proxy)
            try:
                connection.request("GET", target, headers=dict(headers))
                return place, connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is not None:
                    continue  # The server had closed a connection that we had kept: that is no failure.
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise SourceError(
                        f"its certificate is not trusted: {error.verify_message}",
                        where=public_address(url),
                        fix="name the file of your own certificate authority in SSL_CERT_FILE",
                    ) from None
                raise Interrupted(describe(error, self._timeout)) from None
            except ValueError as error:  # http.client refuses addresses with spaces and control characters
                connection.close()
                raise SourceError(f"is no address that can be asked for: {error}", where=public_address(url)) from None

    def _connection(self, place: _Place, proxy: str | None) -> http.client.HTTPConnection:
        scheme, host, port = place
        at, at_port = host, port
        if proxy is not None:
            parts = urlsplit(proxy)
            at, at_port = parts.hostname or "", parts.port or 8080
        if scheme == "http":
            return http.client.HTTPConnection(at, at_port, timeout=self._timeout)
        connection = http.client.HTTPSConnection(at, at_port, timeout=self._timeout, context=self._context())
        if proxy is not None:
            connection.set_tunnel(host, port, headers=_proxy_identity(proxy))
        return connection

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                bundle = self._ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or None
                try:
                    self._tls = ssl.create_default_context(cafile=bundle)
                except OSError as error:
                    raise SourceError(f"holds no certificates: {error}", where=bundle, fix="name a PEM file") from None
            return self._tls

    def _follow(self, url: str, place: _Place, location: str, sent: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
        target = urljoin(url, location)
        there = _place(target)
        if place[0] == "https" and there[0] != "https":
            raise SourceError("redirects from https to http, which is not followed", where=public_address(url))
        if there != place:
            sent = {k: v for k, v in sent.items() if k.lower() not in _CREDENTIALS}
        return target, sent

    def _drain(self, place: _Place, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        try:
            response.read(64 * 1024)
        except (OSError, http.client.HTTPException):
            pass
        self._give_back(place, connection, keep=response.isclosed() and not response.will_close)

    # Connections that are kept ----------------------------------------------------------------------------------------

    def _take(self, place: _Place) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(place)
            return idle.pop() if idle else None

    def _give_back(self, place: _Place, connection: http.client.HTTPConnection, *, keep: bool) -> None:
        if keep:
            with self._lock:
                idle = self._idle.setdefault(place, [])
                if len(idle) < _IDLE:
                    idle.append(connection)
                    return
        connection.close()


def ask_patiently(attempt: Callable[[], Any], *, pauses: Sequence[float], failed: Callable[[Interrupted], SourceError]) -> Any:
    """What `attempt` returns, tried again after each pause if it raises Interrupted; at last raises what `failed` makes of it."""
    for pause in [*pauses, None]:
        try:
            return attempt()
        except Interrupted as error:
            if pause is None:
                raise failed(error) from None
            time.sleep(max(pause, error.wait or 0))
    raise AssertionError("the last attempt returns or raises")


def parse_json(raw: bytes, *, where: str, fix: str) -> Any:
    """Raises SourceError unless `raw` is JSON."""
    try:
        return json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise SourceError("did not answer with JSON", where=where, fix=fix) from None


def public_address(url: str) -> str:
    """An address fit to be shown: without user, password and query, which may be a signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine: only there a secret may travel in the clear."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", host))


def describe(error: Exception, timeout: float) -> str:
    """A failed connection in words, without anything secret that an address may hold."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    text = re.sub(r"\w+://\S+", lambda match: public_address(match[0]), " ".join(str(error).split()))
    return f"{text or 'the connection broke'} ({type(error).__name__})"


def _blocks(response: http.client.HTTPResponse, timeout: float) -> Iterator[bytes]:
    try:
        # read1 hands on what has arrived: a slow sender is seen to send.
        while block := response.read1(BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(describe(error, timeout)) from None
    except ValueError:  # a chunked body with a broken length
        raise Interrupted("the answer's framing is broken") from None


def _place(url: str) -> _Place:
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in ("http", "https") or not host:
        raise SourceError("is no http address", where=public_address(url))
    return scheme, host, port or (443 if scheme == "https" else 80)


def _proxy(place: _Place) -> str | None:
    scheme, host, port = place
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass_environment(f"{host}:{port}", proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_identity(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    identity = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"proxy-authorization": "Basic " + b64encode(identity.encode()).decode()}
