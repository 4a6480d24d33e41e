"""What `enginepress outdated` costs over a thousand recipes, each with a source of its own on one hub.

The hub is another process on this machine: it answers at once and counts its requests. Whole processes are timed: the
command with an empty cache, with the ETags of the time before, and after one source in ten has moved.

    python -m benchmarks.outdated [--sources 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.timing import Times

ROOT = Path(__file__).parents[1]
SOURCES = 1000


@dataclass(frozen=True)
class OutdatedTimes:
    """Seconds of the whole command, and the most requests that one source was asked for in one of them."""

    sources: int
    first: Times
    unchanged: Times
    moved: Times
    requests_each: float


def outdated_times(sources: int = SOURCES, rounds: int = 3) -> OutdatedTimes:
    """Times the command against a hub of its own.

    Raises:
        RuntimeError: if the command fails, or tells other sources to have moved than those that have.
    """
    found: dict[str, list[float]] = {"first": [], "unchanged": [], "moved": []}
    most = 0.0
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        _write_recipes(site / "recipes", sources)
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.outdated", "--serve"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            hub = server.stdout.readline().strip()
            for number in range(rounds + 1):
                for name, moved in (("first", 0), ("unchanged", 0), ("moved", sources // 10)):
                    _ask(f"{hub}/moved/{moved}")
                    seconds = _run(site, hub, f"w{number}", moved)
                    most = max(most, _ask(f"{hub}/requests") / sources)
                    if number:
                        found[name].append(seconds)
        finally:
            server.terminate()
            server.wait()
    times = {name: Times(tuple(seconds)) for name, seconds in found.items()}
    return OutdatedTimes(sources, times["first"], times["unchanged"], times["moved"], most)


def _run(site: Path, hub: str, workspace: str, moved: int) -> float:
    command = [sys.executable, "-m", "enginepress", "outdated", str(site / "recipes"), "--json", "-w", str(site / workspace)]
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": "hf_benchmark"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"outdated failed: {done.stderr[-2000:]}")
    told = sum(state["status"] == "moved" for state in json.loads(done.stdout))
    if told != moved:
        raise RuntimeError(f"{told} sources were told to have moved, {moved} had")
    return seconds


def _ask(url: str) -> float:
    with urllib.request.urlopen(url) as answer:
        return float(answer.read())


def _write_recipes(folder: Path, sources: int) -> None:
    """Recipes as people write them, each with its lock."""
    folder.mkdir()
    example = (ROOT / "examples" / "recipes" / "laptop.yaml").read_text()
    for number in range(sources):
        uri = f"hf://org/model-{number}@main"
        lines = [f"source: {uri}" if line.startswith("source:") else line for line in example.splitlines()]
        (folder / f"model-{number}.yaml").write_text("\n".join(lines))
        files = {name: {"size": 1000, "sha256": "a" * 64} for name in ("config.json", "model.safetensors", "tokenizer.json")}
        head = {"format": 1, "uri": uri, "allow_pickle": False, "trust_remote_code": False}
        lock = {**head, "source": f"hf://org/model-{number}", "id": _commit(str(number), moved=False), "files": files}
        (folder / f"model-{number}.lock.json").write_text(json.dumps(lock))


# The hub --------------------------------------------------------------------------------------------------------------


def _commit(number: str, *, moved: bool) -> str:
    return hashlib.sha1(f"{number} {moved}".encode(), usedforsecurity=False).hexdigest()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    moved = 0
    requests = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        kind = type(self)
        _, verb, *rest = self.path.partition("?")[0].split("/")
        if verb == "moved":
            kind.moved, kind.requests = int(rest[0]), 0
            return self._send(200, b"0")
        if verb == "requests":
            return self._send(200, str(kind.requests).encode())
        kind.requests += 1
        number = rest[2].removeprefix("model-")
        commit = _commit(number, moved=int(number) < kind.moved)
        etag = f'W/"{commit[:12]}"'
        if self.headers.get("If-None-Match") == etag:
            return self._send(304, b"", etag)
        return self._send(200, json.dumps({"id": f"org/model-{number}", "sha": commit}).encode(), etag)

    def _send(self, status: int, body: bytes, etag: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=SOURCES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return _serve()
    times = outdated_times(arguments.sources, arguments.rounds)
    print(f"`enginepress outdated`, {times.sources:,} recipes, whole process (goal: at most 10 s for 1,000, 1 request each)")
    print(f"  for the first time          {times.first}")
    print(f"  nothing has moved           {times.unchanged}")
    print(f"  one in ten has moved        {times.moved}")
    print(f"  requests a source at most   {times.requests_each:g}")
    return None


if __name__ == "__main__":
    main()
