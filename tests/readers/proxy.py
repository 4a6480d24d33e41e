"""A small load balancer, as a Kubernetes Service is one: it asks each server whether it is ready, and sends requests to those
that were at the last look, one after the other. It tries nothing twice."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from enginepress.errors import ServerError
from enginepress.serving.http_connection import HttpConnection

LOOK_EVERY_S = 0.1


class Proxy:
    """`never_none` stays true as long as there was a ready server at every look."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = list(servers)
        self.ready = list(servers)
        self.never_none = True
        self._turn = itertools.count()
        self._stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            *(threading.Thread(target=self._watch, args=(s,), daemon=True) for s in servers),
        ]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(10)

    def _watch(self, server: str) -> None:
        with HttpConnection(server, timeout_s=5) as connection:
            while not self._stop.wait(LOOK_EVERY_S):
                try:
                    ready = connection.ask("GET", "/v2/health/ready")[0] == 200
                except ServerError:
                    ready = False
                if ready and server not in self.ready:
                    self.ready.append(server)
                elif not ready and server in self.ready:
                    self.ready.remove(server)
                self.never_none &= bool(self.ready)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            connections: dict[str, http.client.HTTPConnection]

            def setup(self) -> None:
                super().setup()
                self.connections = {}

            def finish(self) -> None:
                for connection in self.connections.values():
                    connection.close()
                super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                ready = list(proxy.ready)
                if not ready:
                    self._answer(503, b'{"error": "no server is ready"}')
                    return
                server = ready[next(proxy._turn) % len(ready)]
                connection = self.connections.setdefault(server, http.client.HTTPConnection(server, timeout=60))
                connection.request("POST", self.path, body=body, headers={"Content-Type": "application/json"})
                response = connection.getresponse()
                self._answer(response.status, response.read())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler
