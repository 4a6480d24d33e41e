"""Downloads against `hf download` from the same server on this machine, taking turns; memory; and hashing against openssl.

    python -m benchmarks.downloads [--folder DIR] [--rounds N]

Both sides are whole processes that write to the same disk from a repository that lies in the page cache. Ours hashes every
byte, checks the headers of the weights and syncs the files; `hf download` compares sizes and does not sync.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024

TOKENIZER = {"model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}}

OURS = """
import sys
from pathlib import Path
from benchmarks.timing import peak_mib
from enginepress.recipe import Source
from enginepress.sources.download import download_checkpoint
from enginepress.sources.open import open_source

folder = Path(sys.argv[1])
(folder / "output").mkdir(parents=True)
source = open_source(Source(uri="hf://org/model"), cache=None)
download_checkpoint(source, source.resolve(), folder / "output", partial_store=folder / "store", progress=lambda *_: None)
print(round(peak_mib()))
"""

VERIFY = """
import sys
from pathlib import Path
from enginepress.files import hash_folder
print(len(hash_folder(Path(sys.argv[1]))))
"""


@dataclass(frozen=True)
class Comparison:
    """Seconds of both sides in the order in which they were measured, and our peak memory in MiB."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    peak_mib: int = 0

    @property
    def ratio(self) -> float:
        """Ours over theirs: below 1 is faster."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    def __str__(self) -> str:
        ours, theirs = (f"{statistics.median(s):.2f} s ({min(s):.2f} to {max(s):.2f})" for s in (self.ours, self.theirs))
        return f"ours {ours}, theirs {theirs}, ratio {self.ratio:.2f}"


def make_repository(folder: Path, files: int, size: int, *, sparse: bool = False) -> Path:
    """A checkpoint of so many shards of so many bytes; random ones, or zeros that take no space."""
    if (folder / "tokenizer.json").exists():
        return folder
    folder.mkdir(parents=True)
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        header = json.dumps({f"t{number}": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        weight_map[f"t{number}"] = name
        with open(folder / name, "wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            if sparse:
                stream.truncate(8 + len(header) + size)
                continue
            for at in range(0, size, 8 * MIB):
                stream.write(os.urandom(min(8 * MIB, size - at)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", **TOKENIZER}))
    return folder


@contextlib.contextmanager
def hub(repository: Path) -> Iterator[dict[str, str]]:
    """Serves a repository; yields the environment that names the server."""
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.file_hub", str(repository)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        yield {**keep, "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _timed(command: list[str], env: Mapping[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return seconds, done.stdout


def compare_downloads(repository: Path, scratch: Path, rounds: int) -> Comparison:
    """Ours and `hf download`, in turns; one round before is not counted. What each wrote is counted and removed."""
    hf = shutil.which("hf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if hf is None:
        raise RuntimeError("the `hf` command of huggingface_hub is not installed")
    ours: list[float] = []
    theirs: list[float] = []
    peak = 0
    files = len(list(repository.iterdir()))
    with hub(repository) as env:
        for number in range(rounds + 1):
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
                os.sync()  # what the other side left dirty is not ours to write
                if side == "ours":
                    seconds, output = _timed([sys.executable, "-c", OURS, str(scratch)], env)
                    written, peak = scratch / "output", max(peak, int(output))
                else:
                    command = [hf, "download", "org/model", "--local-dir", str(scratch / "m")]
                    seconds, _ = _timed(command, {**env, "HF_HOME": str(scratch / "home")})
                    written = scratch / "m"
                if len([p for p in written.iterdir() if p.is_file()]) != files:
                    raise RuntimeError(f"{side}: not all of {files} files were written")
                if number:
                    (ours if side == "ours" else theirs).append(seconds)
    shutil.rmtree(scratch, ignore_errors=True)
    return Comparison(tuple(ours), tuple(theirs), peak)


def peak_memory(repository: Path, scratch: Path) -> int:
    """MiB that a download takes at most."""
    shutil.rmtree(scratch, ignore_errors=True)
    with hub(repository) as env:
        _, output = _timed([sys.executable, "-c", OURS, str(scratch)], env)
    shutil.rmtree(scratch, ignore_errors=True)
    return int(output)


def compare_verifying(folder: Path, rounds: int) -> Comparison:
    """Hashing what lies on disk, against openssl on every core."""
    files = [str(path) for path in sorted(folder.iterdir())]
    listing = "\\0".join(files)
    openssl = ["sh", "-c", f"printf '{listing}' | xargs -0 -n 1 -P {os.cpu_count()} openssl dgst -sha256"]
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            command = [sys.executable, "-c", VERIFY, str(folder)] if side == "ours" else openssl
            seconds, output = _timed(command, os.environ)
            if side == "theirs" and len(output.splitlines()) != len(files):
                raise RuntimeError("openssl did not hash every file")
            if number:
                (ours if side == "ours" else theirs).append(seconds)
    return Comparison(tuple(ours), tuple(theirs))


def rows(folder: Path, rounds: int) -> list[tuple[str, ...]]:
    """What was measured, for docs/benchmarks.md."""
    scratch = folder / "scratch"
    large = compare_downloads(make_repository(folder / "large", 4, 256 * MIB), scratch, rounds)
    small = compare_downloads(make_repository(folder / "small", 2000, 10_000), scratch, rounds)
    one = peak_memory(make_repository(folder / "one", 1, 256 * MIB, sparse=True), scratch)
    huge = peak_memory(make_repository(folder / "huge", 1, 4096 * MIB, sparse=True), scratch)
    verify = compare_verifying(make_repository(folder / "disk", 4, 1024 * MIB), rounds)
    return [
        ("4 files of 256 MiB, verified, against `hf download`, throughput", str(large), f"{1 / large.ratio:.2f}", "at least 1.0"),
        ("2,000 files of 10 kB against `hf download`, time", str(small), f"{small.ratio:.2f}", "at most 0.8"),
        ("peak memory, one file of 256 MiB / 4 GiB", f"{one} MiB / {huge} MiB", f"{huge / one:.2f}", "at most 200 MiB, flat"),
        ("hashing 4 GiB on disk against openssl on all cores, speed", str(verify), f"{1 / verify.ratio:.2f}", "at least 0.9"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "var" / "benchmarks" / "downloads")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for row in rows(arguments.folder, arguments.rounds):
        print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
