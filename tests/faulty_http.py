"""A base for test servers: real HTTP(S) on 127.0.0.1, every request kept, faults on demand.

class MyServer(FaultyServer):
    def answer(self, handler: FaultyHandler) -> None: ...

with MyServer() as server:
    server.faults.append(Fault("*.safetensors", cut_after=1000))
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

BLOCK = 64 * 1024
Self = TypeVar("Self", bound="FaultyServer")


@dataclass
class Fault:
    """Something that goes wrong with answers whose name matches.

    Attributes:
        pattern: fnmatch of a file's name, or of the request's path.
        cut_after: the connection is closed after so many bytes of the body.
        corrupt_at: the lowest bit of this byte of the file is flipped.
        short_by: so many bytes are missing at the end, and Content-Length agrees.
        status: this status instead of an answer.
        retry_after: seconds, sent with `status`.
        delay: seconds before the answer starts.
        pause: seconds between blocks of 64 KiB.
        ignore_range: the whole file is sent although a part was asked for.
        shift_range: another part of the file than the one asked for is sent, and said to be.
        body: this instead of what would have been answered.
        reset: the connection is closed before anything is done.
        lost: what is asked for is done, and the connection closed without an answer (S3Server).
        times: for so many requests; -1 for all.
    """

    pattern: str
    cut_after: int | None = None
    corrupt_at: int | None = None
    short_by: int = 0
    status: int | None = None
    retry_after: int | None = None
    delay: float = 0
    pause: float = 0
    ignore_range: bool = False
    shift_range: int = 0
    body: bytes | None = None
    reset: bool = False
    lost: bool = False
    times: int = 1


@dataclass(frozen=True)
class Request:
    """One request that was seen. Header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def host(self) -> str:
        return self.headers.get("host", "").partition(":")[0]

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


class FaultyServer:
    """The server; a context manager.

    Args:
        tls: a certificate and its key (see `make_certificate`) to serve https.

    Attributes:
        url: its address.
        requests: every request so far.
        faults: the first that matches is used.
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._faults_lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "http" if tls is None else "https"
        self.port: int = self._server.server_address[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"

    def __enter__(self: Self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: FaultyHandler) -> None:
        raise NotImplementedError

    def fault(self, name: str) -> Fault | None:
        with self._faults_lock:
            for fault in self.faults:
                if fault.times != 0 and fnmatch(name, fault.pattern):
                    fault.times -= 1
                    return fault
        return None


class FaultyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait for the client's delayed answer
    faulty: FaultyServer
    seen: Request

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.seen = Request(self.command, unquote(address.path), query, headers)
        self.faulty.requests.append(self.seen)
        try:
            self.faulty.answer(self)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_HEAD = do_GET
    do_PUT = do_GET
    do_POST = do_GET
    do_DELETE = do_GET

    # Answers ----------------------------------------------------------------------------------------------------------

    def broken(self, fault: Fault | None) -> bool:
        """Applies what needs no file; True if that was the answer."""
        if fault is None:
            return False
        time.sleep(fault.delay)
        if fault.reset:
            self.hang_up()
            return True
        if fault.status is not None:
            more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self.send(fault.status, fault.body or b"as ordered", more)
            return True
        if fault.body is not None:
            self.send(200, fault.body, {"Content-Type": "application/json"})
            return True
        return False

    def send_data(self, data: bytes, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        """A file or the part of it that was asked for, with what the fault does to it."""
        fault = fault or Fault("")
        if self.broken(fault):
            return
        if fault.corrupt_at is not None:
            at = fault.corrupt_at % len(data)
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        whole = len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.seen.headers.get("range", ""))
        start, stop, status = 0, whole, 200
        if asked and not fault.ignore_range:
            start = int(asked[1]) + fault.shift_range
            stop = min(whole, int(asked[2]) + 1 + fault.shift_range) if asked[2] else whole
            status = 206
            if start >= whole and whole:
                self.send(416, b"", {})
                return
        part = memoryview(data)[start : max(start, min(stop, whole - fault.short_by))]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{whole}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(part) if fault.cut_after is None else min(len(part), fault.cut_after)
        for at in range(0, end, BLOCK):
            self.wfile.write(part[at : min(at + BLOCK, end)])
            self.wfile.flush()
            time.sleep(fault.pause)
        if end < len(part):
            self.hang_up()

    def send_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(2)
        self.close_connection = True


def _handler(server: FaultyServer) -> type[FaultyHandler]:
    class Handler(FaultyHandler):
        faulty = server

    return Handler


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost that signs itself, and its key; so it is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test server")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "certificate.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert_file, key_file
