"""A small HTTP client over Python's own `http.client`: kept connections, redirects, proxies, TLS, time-outs.

Made for few, large, verified answers: it hands on blocks as the socket gives them, which costs a fraction of what general
clients need for the same bytes, and it is the same whatever version of huggingface_hub is installed.

A header named in `private` goes to the origin (scheme, host and port) that was asked and nowhere else: not to where a
redirect leads. No error names a header, the user part of an address or a query, since signatures stand there.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from enginepress.sources import Body, Interrupted
from enginepress.sources.transfer.watch import Watch, shut_down

TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 256 * 1024
MAX_REDIRECTS = 5
MAX_WAIT_SECONDS = 300.0
IDLE_CONNECTIONS = 16
HEADER_TIMEOUTS = 2
"""An answer's headers have to be there after so many time-outs, however many bytes of them keep arriving."""

FINISH_SECONDS = 1.0
"""So long the rest of an answer that nobody wants is waited for, since a kept connection is worth something."""

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""What a connection that fails raises. ValueError: answers that are no HTTP, such as a chunk whose length is no number."""

_LEGAL = "%/:=&?~#+!$,;'@()*[]"
"""What may stand in an address beside letters and digits. Servers redirect to addresses with spaces and umlauts, too."""

_Origin = tuple[str, str, int]


@dataclass(frozen=True)
class Answer:
    """Status, headers (looked up in any case) and body of an answer, redirects followed; `url` is where it came from.

    `timeout`: seconds in which something worth the while should arrive.
    """

    status: int
    headers: Any
    blocks: Iterator[bytes]
    url: str
    timeout: float = TIMEOUT_SECONDS

    def header(self, name: str) -> str:
        return str(self.headers.get(name) or "")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to be left alone."""
        asked = retry_after(self.header("retry-after"), self.header("date"))
        return asked if asked is not None else rate_limit(self.header("ratelimit"))

    def body(self, span: tuple[int, int] | None) -> Body:
        """The part of a file that was asked for by `span`, or the whole.

        Raises:
            Interrupted: if this is another part, or not the bytes themselves.
        """
        if self.header("content-encoding") not in ("", "identity"):
            raise Interrupted("the server sent a compressed answer although it was asked not to")
        etag = self.header("etag")
        version = etag if etag.startswith('"') else None  # a weak one does not promise the same bytes
        mark = etag or self.header("last-modified") or None
        if self.status != 206:
            return Body(0, self.blocks, version, mark)
        match = re.match(r"bytes (\d+)-", self.header("content-range"))
        if span is None or match is None or int(match[1]) != span[0]:
            raise Interrupted("the server sent another part of the file than the one it was asked for")
        return Body(span[0], self.blocks, version, mark)


def retry_after(value: str, date: str = "") -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None if it says nothing that makes sense.

    Args:
        date: the server's own Date, so that its clock and ours need not agree.
    """
    if re.fullmatch(r"\d{1,9}", value):
        return min(float(value), MAX_WAIT_SECONDS)
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
        return min(max((until - now).total_seconds(), 0.0), MAX_WAIT_SECONDS)
    except (TypeError, ValueError, OverflowError):
        return None


def rate_limit(value: str) -> float | None:
    """Seconds until a RateLimit header (an IETF draft, of which Hugging Face's hub is a user) allows more requests; None if it
    does not forbid them."""
    match = re.search(r";\s*r\s*=\s*0+\s*;\s*t\s*=\s*(\d{1,9})(?!\d)", value)
    return min(float(match[1]) + 1, MAX_WAIT_SECONDS) if match else None  # a second more: the header's are rounded


def public_address(url: str) -> str:
    """An address fit to be shown: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def range_header(span: tuple[int, int] | None) -> dict[str, str]:
    return {} if span is None else {"range": f"bytes={span[0]}-{span[1] - 1}"}


class HttpClient:
    """GET requests from any number of threads.

    Args:
        agent: the User-Agent.
        timeout: seconds without a byte after which a connection counts as broken.
        ca_bundle: file with the certificates to trust, else REQUESTS_CA_BUNDLE, SSL_CERT_FILE or the system's.
    """

    def __init__(self, agent: str, *, timeout: float = TIMEOUT_SECONDS, ca_bundle: str | None = None) -> None:
        self.timeout = timeout
        self._agent = agent
        self._ca_bundle = ca_bundle
        self._context: ssl.SSLContext | None = None
        self._idle: dict[_Origin, list[http.client.HTTPConnection]] = {}
        self._under_way: dict[http.client.HTTPConnection, socket.socket] = {}
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self._watch = Watch()

    @contextmanager
    def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        span: tuple[int, int] | None = None,
        private: Mapping[str, str] | None = None,
    ) -> Iterator[Answer]:
        """Asks for `url` and follows where it redirects.

        Args:
            span: bytes of the file to ask for, start and stop.
            private: headers for the origin of `url` only.

        Raises:
            Interrupted: if the connection cannot be made or breaks, also while the blocks are read.
        """
        address, origin = url, _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = {**(headers or {}), **range_header(span)}
            if _origin(address) == origin:
                sent |= private or {}
            connection, response = self._ask(address, sent)
            target = response.getheader("location")
            if response.status in (301, 302, 303, 307, 308) and target:
                self._finish(address, connection, response)
                address = urljoin(address, quote(target.encode("latin-1"), safe=_LEGAL))
                if urlsplit(address).scheme not in ("http", "https"):
                    raise Interrupted("the server redirects to something that is no web address")
                continue
            try:
                yield Answer(response.status, response.headers, self._blocks(response), address, self.timeout)
            except BaseException:
                # Who left before the end has a reason, such as a stream that stands still: nobody waits for its rest.
                self._forget(connection)
                response.close()
                connection.close()
                raise
            self._finish(address, connection, response)
            return
        raise Interrupted(f"the server redirects more than {MAX_REDIRECTS} times")

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (c for connections in idle.values() for c in connections):
            connection.close()

    def abort(self) -> None:
        """Ends every request that is under way, and all that come after: they meet Interrupted at once. From any thread."""
        with self._lock:
            self._aborted.set()
            under_way = list(self._under_way.values())
        for connection in under_way:
            shut_down(connection)

    def pause(self, seconds: float) -> bool:
        """Waits so long, or until `abort`; whether it was that."""
        return self._aborted.wait(seconds)

    # One request ------------------------------------------------------------------------------------------------------

    def _ask(self, url: str, headers: dict[str, str]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request. A kept connection that turns out to be closed is replaced by a new one."""
        while True:
            kept = self._take(_origin(url))
            connection = kept
            try:
                connection = connection or self._connect(url)
                with self._lock:
                    if self._aborted.is_set():
                        raise ConnectionAbortedError("it was given up")
                    self._under_way[connection] = connection.sock
                connection.request("GET", self._request_target(url), headers=self._headers(url, headers))
                with self._watch.within(connection.sock, HEADER_TIMEOUTS * self.timeout):
                    return connection, connection.getresponse()
            except FAILURES as error:
                if connection is not None:
                    self._forget(connection)
                    connection.close()
                if kept is not None and not isinstance(error, TimeoutError) and not self._aborted.is_set():
                    continue
                raise Interrupted(self._describe(error)) from None

    def _headers(self, url: str, headers: dict[str, str]) -> dict[str, str]:
        sent = {"user-agent": self._agent, "accept": "*/*", "accept-encoding": "identity", **headers}
        parts = urlsplit(url)
        if parts.username is not None:
            sent["authorization"] = _basic(parts.username, parts.password)
        if parts.scheme == "http" and (proxy := _proxy(url)) is not None and proxy.username is not None:
            sent["proxy-authorization"] = _basic(proxy.username, proxy.password)
        return sent

    def _request_target(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "http" and _proxy(url) is not None:
            return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
        return urlunsplit(("", "", parts.path or "/", parts.query, ""))

    def _connect(self, url: str) -> http.client.HTTPConnection:
        scheme, host, port = _origin(url)
        proxy = _proxy(url)
        near = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(*near, timeout=self.timeout, context=self._tls())
            if proxy is not None:
                login = {} if proxy.username is None else {"Proxy-Authorization": _basic(proxy.username, proxy.password)}
                connection.set_tunnel(host, port, headers=login)
        else:
            connection = http.client.HTTPConnection(*near, timeout=self.timeout)
        connection.connect()
        # Requests are small and wait for their answer.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                file = self._ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
                self._context = ssl.create_default_context(cafile=file or _bundled_certificates())
            return self._context

    def _blocks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """What the socket has, at once: a stream that merely trickles is seen by whoever counts."""
        try:
            while block := response.read1(BLOCK_BYTES):
                yield block
        except FAILURES as error:
            raise Interrupted(self._describe(error)) from None

    def _describe(self, error: Exception) -> str:
        """A failed request in words, without anything secret that a library put into its message."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self.timeout:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        if isinstance(error, http.client.InvalidURL):
            return "the address is not valid"  # the library's message has all of it, with its signature
        text = " ".join(str(error.strerror if isinstance(error, OSError) and error.strerror else error).split())
        text = re.sub(r"\w+://\S+", lambda match: public_address(match[0]), text)
        return f"{text or 'the connection broke'} ({type(error).__name__})"

    # Kept connections -------------------------------------------------------------------------------------------------

    def _take(self, origin: _Origin) -> http.client.HTTPConnection | None:
        with self._lock:
            kept = self._idle.get(origin)
            return kept.pop() if kept else None

    def _forget(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._under_way.pop(connection, None)

    def _finish(self, url: str, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        """Keeps the connection if the answer was read to its end, or if little of it is left and comes at once."""
        try:
            left = response.length
            if not response.isclosed() and left is not None and left <= BLOCK_BYTES and connection.sock is not None:
                with self._watch.within(connection.sock, FINISH_SECONDS):
                    response.read()
        except FAILURES:
            connection.close()
            return
        finally:
            self._forget(connection)
        if not response.isclosed() or connection.sock is None:
            response.close()
            connection.close()
            return
        with self._lock:
            kept = self._idle.setdefault(_origin(url), [])
            if len(kept) < IDLE_CONNECTIONS:
                kept.append(connection)
                return
        connection.close()


def _origin(url: str) -> _Origin:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise Interrupted("the address has no valid port") from None
    return parts.scheme, parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


def _proxy(url: str) -> Any:
    """The proxy for an address by the usual environment variables, or None."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _basic(user: str, password: str | None) -> str:
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _bundled_certificates() -> str | None:
    """certifi's, where the system has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.path.isdir(paths.capath) and os.listdir(paths.capath)):
        return None
    try:
        import certifi
    except ImportError:
        return None
    return str(certifi.where())
