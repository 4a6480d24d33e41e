"""What a pass of `enginepress watch` costs over a thousand recipes with nothing to do, each with its own source and release.

The hub is another process on this machine; the releases are small, with the records that a run leaves. The whole process
is measured: seconds, and the most memory that it held. What is compared is what a pass does: source, build key, stores.

    python -m benchmarks.watch [--recipes 1000] [--rounds 3]
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.timing import Times

ROOT = Path(__file__).parents[1]
RECIPES = 1000
LIMIT_SECONDS, LIMIT_MIB = 15, 250


@dataclass(frozen=True)
class WatchTimes:
    """Seconds of the whole command, and the most MiB that it held in one of the rounds."""

    recipes: int
    seconds: Times
    mib: float


def watch_times(recipes: int = RECIPES, rounds: int = 3) -> WatchTimes:
    """Times the command over recipes that are all released.

    Raises:
        RuntimeError: if the command fails, or finds something to do.
    """
    found: list[float] = []
    most = 0.0
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.watch", "--serve"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            hub = server.stdout.readline().strip()
            environment = {**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": "hf_benchmark"}
            prepare = [sys.executable, "-m", "benchmarks.watch", "--prepare", str(site), "--recipes", str(recipes)]
            subprocess.run(prepare, check=True, env=environment, cwd=ROOT)
            command = [sys.executable, "-m", "enginepress", "watch", str(site / "recipes"), "--once", "--json"]
            for number in range(rounds + 1):
                seconds, mib = _run([*command, "-w", str(site / "w")], environment, recipes)
                if number:
                    found.append(seconds)
                    most = max(most, mib)
        finally:
            server.terminate()
            server.wait()
    return WatchTimes(recipes, Times(tuple(found)), most)


def _run(command: Sequence[str], environment: dict[str, str], recipes: int) -> tuple[float, float]:
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if child.returncode or json.loads(text)["counts"] != {"current": recipes}:
        raise RuntimeError(f"watch ended with {child.returncode}: {text[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def _prepare(site: Path, recipes: int) -> None:
    """Recipes as people write them, and a release of each."""
    from enginepress.recipe_file import load_recipe
    from enginepress.steps.resolve import plan_of
    from tests.steps.pretend import pretend_release

    folder = site / "recipes"
    folder.mkdir()
    example = (ROOT / "examples" / "recipes" / "laptop.yaml").read_text()

    def prepare(number: int) -> None:
        lines = [
            f"source: hf://org/model-{number}@main"
            if line.startswith("source:")
            else f"name: model-{number}"
            if line.startswith("name:")
            else line.replace("../../var/store", "../store").replace("../../var/mlflow.db", "../mlflow.db")
            for line in example.splitlines()
            if "  reference: " not in line
        ]
        path = folder / f"model-{number}.yaml"
        path.write_text("\n".join(lines))
        recipe = load_recipe(path)
        scratch = site / "scratch" / str(number)
        scratch.mkdir(parents=True)
        pretend_release(recipe, *plan_of(recipe, site / "w" / "cache", "r"), scratch)

    # Publishing waits for the disk most of the time.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(prepare, range(recipes)))


# The hub --------------------------------------------------------------------------------------------------------------


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        name = path.split("/")[4]
        commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        etag = f'W/"{commit[:12]}"'
        if self.headers.get("If-None-Match") == etag:
            return self._send(304, b"", etag)
        answer: dict[str, Any] = {"id": f"org/{name}", "sha": commit}
        if "blobs" in query:
            small = ("config.json", "tokenizer.json", "tokenizer_config.json")
            answer["siblings"] = [{"rfilename": n, "size": 1000, "blobId": "0" * 40} for n in small]
            digest = hashlib.sha256(name.encode()).hexdigest()
            lfs = {"sha256": digest, "size": 5000, "pointerSize": 130}
            answer["siblings"].append({"rfilename": "model.safetensors", "size": 5000, "blobId": "0" * 40, "lfs": lfs})
        return self._send(200, json.dumps(answer).encode(), etag)

    def _send(self, status: int, body: bytes, etag: str) -> None:
        self.send_response(status)
        self.send_header("ETag", etag)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=RECIPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve()
    elif arguments.prepare:
        _prepare(arguments.prepare, arguments.recipes)
    else:
        times = watch_times(arguments.recipes, arguments.rounds)
        print(f"`enginepress watch --once` over {times.recipes:,} recipes, nothing to do: {times.seconds}, {times.mib:.0f} MiB")
        print(f"(wanted for {RECIPES:,}: at most {LIMIT_SECONDS} s and {LIMIT_MIB} MiB)")


if __name__ == "__main__":
    main()
