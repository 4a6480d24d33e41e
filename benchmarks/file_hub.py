"""A hub that costs little: serves the files of a folder as the repository `org/model`, the kernel copying them to the socket.

python -m benchmarks.file_hub FOLDER        prints its address
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


def _described(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    entry: dict[str, Any] = {"path": path.name, "rfilename": path.name, "type": "file", "size": size, "oid": "0" * 40}
    if path.suffix == ".safetensors":
        with open(path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest() if sys.version_info >= (3, 11) else _sha256(path)
        return {**entry, "blobId": "0" * 40, "lfs": {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 134}}
    git = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    return {**entry, "oid": git, "blobId": git}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    entries = {path.name: _described(path) for path in sorted(folder.iterdir())}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/org/model/tree/"):
                self.send_json(list(entries.values()))
            elif path.startswith("/api/models/"):
                self.send_json({"id": "org/model", "sha": COMMIT, "siblings": list(entries.values())})
            elif match := re.fullmatch(r"/org/model/resolve/[^/]+/(.+)", path):
                self.send_file(match[1])
            else:
                self.send_error(404)

        def send_json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, name: str) -> None:
            entry = entries[name]
            size = entry["size"]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start, stop = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"' + (entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]) + '"')
            self.end_headers()
            self.wfile.flush()
            if self.command == "HEAD":
                return
            with open(folder / name, "rb") as stream:
                while start < stop:
                    sent = os.sendfile(self.connection.fileno(), stream.fileno(), start, stop - start)
                    if not sent:
                        return
                    start += sent

    return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    server = _Server(("127.0.0.1", 0), _handler(Path(sys.argv[1])))
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
