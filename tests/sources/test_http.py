"""The HTTP client: kept connections, redirects, proxies, secrets. Against servers on this machine."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from enginepress.sources import Interrupted
from enginepress.sources.transfer.http import HttpClient

SECRET = {"authorization": "Bearer hf_secret"}


class Site:
    """A server: `/redirect?URL` redirects there, `/close` closes the connection after its answer, `/hang` says nothing,
    everything else answers with its path. Asked as a proxy it answers with the whole address."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []
        self.connections = 0
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"

    def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                site.connections += 1

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                site.seen.append((self.path, self.headers.get("Authorization"), self.headers.get("Proxy-Authorization")))
                path, _, query = self.path.partition("?")
                if path == "/redirect":
                    self.send_response(302)
                    self.send_header("Location", unquote(query))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if path == "/hang":
                    site.over.wait(30)
                    return
                body = self.path.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if path == "/close":
                    self.close_connection = True

        return Handler


@contextmanager
def _running(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        site.server.shutdown()
        site.server.server_close()
        thread.join()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with _running(Site()) as running:
        yield running


def _get(client: HttpClient, url: str) -> bytes:
    with client.get(url, private=SECRET) as answer:
        return b"".join(answer.blocks)


def test_a_connection_is_kept_for_the_next_request(site: Site) -> None:
    client = HttpClient("test")
    for number in range(5):
        assert _get(client, f"{site.url}/{number}") == f"/{number}".encode()
    assert site.connections == 1


def test_a_kept_connection_that_the_server_closed_is_replaced(site: Site) -> None:
    client = HttpClient("test")
    for _ in range(3):
        assert _get(client, f"{site.url}/close") == b"/close"
        time.sleep(0.05)
    assert site.connections == 3


def test_a_secret_goes_with_a_redirect_on_the_same_server_and_to_no_other(site: Site) -> None:
    with _running(Site()) as other:
        client = HttpClient("test")
        _get(client, f"{site.url}/redirect?/there")
        assert [s[1] for s in site.seen] == [SECRET["authorization"]] * 2
        _get(client, f"{site.url}/redirect?{other.url}/there")
        _get(client, f"{site.url}/redirect?http://localhost:{site.port}/there")
        assert [s[1] for s in other.seen] == [None]
        assert site.seen[-1][:2] == ("/there", None), "another host name is another server"


def test_a_redirect_to_an_address_with_spaces_and_umlauts_is_followed(site: Site) -> None:
    assert _get(HttpClient("test"), f"{site.url}/redirect?/a%20b/%C3%A4?sig=x%2520y%25") == b"/a%20b/%E4?sig=x%20y%"


def test_an_address_that_is_none_is_not_shown_with_its_signature(site: Site) -> None:
    with pytest.raises(Interrupted) as caught:
        _get(HttpClient("test"), f"{site.url}/a b?Signature=geheim")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("target", ["/redirect?/redirect?/redirect", "file:///etc/passwd", "ftp://x/y", "http://127.0.0.1:x/"])
def test_redirects_that_lead_nowhere_are_given_up(target: str, site: Site) -> None:
    url = f"{site.url}/redirect?{target}"
    if target.startswith("/redirect"):
        url = f"{site.url}/redirect?" + "/redirect?" * 9
    with pytest.raises(Interrupted):
        _get(HttpClient("test"), url)


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(site: Site) -> None:
    start = time.monotonic()
    with pytest.raises(Interrupted, match=r"no answer within 0\.2 s"):
        _get(HttpClient("test", timeout=0.2), f"{site.url}/hang")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("kept", [False, True])
def test_a_request_that_nobody_answers_ends_when_it_is_given_up(kept: bool, site: Site) -> None:
    """A minute before its time, also on a kept connection, which is not taken for one that the server had closed."""
    client = HttpClient("test", timeout=60)
    if kept:
        _get(client, f"{site.url}/first")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_get, client, f"{site.url}/hang")
        while "/hang" not in [path for path, _, _ in site.seen]:
            time.sleep(0.01)
        client.abort()
        with pytest.raises(Interrupted):
            asked.result()
        assert client.pause(60)
        with pytest.raises(Interrupted):
            _get(client, f"{site.url}/later")
    assert [path for path, _, _ in site.seen].count("/hang") == 1


def test_no_message_holds_a_password_or_a_signature(site: Site) -> None:
    site.server.server_close()
    with pytest.raises(Interrupted) as caught:
        _get(HttpClient("test"), f"http://user:pass-word@127.0.0.1:{site.port}/x?Signature=secret")
    assert "pass-word" not in repr(caught.value)
    assert "secret" not in repr(caught.value)


def test_a_proxy_is_asked_with_the_whole_address_and_its_own_password(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.replace("http://", "http://user:word@"))
    assert _get(HttpClient("test"), "http://hub.example/x?y=1") == b"http://hub.example/x?y=1"
    assert site.seen == [("http://hub.example/x?y=1", SECRET["authorization"], "Basic dXNlcjp3b3Jk")]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert _get(HttpClient("test"), f"{site.url}/direct") == b"/direct"


def test_a_certificate_that_is_not_trusted_is_said_to_be_so(tmp_path: Path, site: Site) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _running(Site(context)) as safe:
        with pytest.raises(Interrupted, match="its certificate is not trusted"):
            _get(HttpClient("test"), f"{safe.url}/x")
        assert _get(HttpClient("test", ca_bundle=str(certificate)), f"{safe.url}/x") == b"/x"
