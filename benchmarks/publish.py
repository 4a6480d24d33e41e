"""Publishing to a file store: against `cp -a`, `sync -f` and `openssl dgst`, and against a cold `rsync -c --fsync`; unchanged
files; stores with many releases; memory.

    python -m benchmarks.publish [--folder DIR] [--rounds N]

A release of 4 x 256 MiB and 200 small files. All sides are whole processes on the same disk, taking turns. Ours hashes, syncs
and checks sizes, and ends with a release that readers see. Cold means that the page cache was dropped before (needs root; else
the row says warm).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.timing import peak_mib
from enginepress.files import FileEntry, hash_folder
from enginepress.manifest import Manifest
from enginepress.repository import Placement
from enginepress.stores.filesystem import FileStore
from enginepress.stores.index import write_index
from enginepress.stores.layout import ModelFolder

MIB = 1024 * 1024
BIG = (4, 256 * MIB)
SMALL = (200, 16 * 1024)
MODEL = "bench"

OURS = "import sys; from benchmarks.publish import publish_and_report; publish_and_report(*sys.argv[1:])"


def make_release(folder: Path, big: tuple[int, int] = BIG, small: tuple[int, int] = SMALL, *, sparse: bool = False) -> Path:
    """An unplaced repository: so many big files of so many bytes, and so many small ones."""
    version = folder / MODEL / "0"
    if (version / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    version.mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text(f'name: "{MODEL}"\n')
    for number in range(big[0]):
        with open(version / f"rank{number}.engine", "wb") as stream:
            if sparse:
                stream.truncate(big[1])
            for _ in range(0 if sparse else big[1] // MIB):
                stream.write(os.urandom(MIB))
    for number in range(small[0]):
        (version / f"part{number:03}.bin").write_bytes(os.urandom(small[1]))
    (version / "done").touch()
    return folder


def publish(store: FileStore, source: Path, *, config: str = "", expected: dict[Path, str] | None = None) -> Manifest:
    """As the publish step does it."""
    version = source / MODEL / "0"

    def place(number: int) -> Placement:
        text = f'name: "{MODEL}"\nversion_policy {{ specific {{ versions: [{number}] }} }}\n{config}'
        linked = {f"{MODEL}/{number}/{p.name}": p for p in version.iterdir()}
        return Placement(number, {f"{MODEL}/config.pbtxt": text.encode()}, linked)

    return store.publish(MODEL, place=place, describe=lambda n, files: _manifest(n, files, f"{n:064x}"), expected=expected)


def _manifest(number: int, files: tuple[FileEntry, ...], key: str) -> Manifest:
    made_from = {"source": "file:///checkpoint", "revision": "r", "revision_digest": "0" * 64}
    recipe = {"name": MODEL, "source": {"uri": "file:///checkpoint"}, "stores": [{"url": "file:///store"}]}
    return Manifest(MODEL, number, key, key, files, made_from, {"builder": "onnxruntime"}, recipe, ["triton"])


def publish_and_report(store: str, source: str) -> None:
    """In a process of its own: publishes and prints the peak of its memory in MiB."""
    publish(FileStore(Path(store)), Path(source))
    print(round(peak_mib()))


# Against others -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """Seconds of each side, in the order in which they were measured."""

    seconds: dict[str, list[float]]

    def text(self, side: str) -> str:
        times = self.seconds[side]
        return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"

    def ratio(self, side: str, other: str) -> float:
        return statistics.median(self.seconds[side]) / statistics.median(self.seconds[other])


def compare(source: Path, scratch: Path, rounds: int, *, cold: bool) -> Sides:
    """Ours and another, in turns; one round before is not counted."""
    target = scratch / "target"
    copied = (
        f"cp -a '{source}' '{target}' && sync -f '{target}' && find '{target}' -type f -print0 | xargs -0 openssl dgst -sha256"
    )
    other = ["rsync", "-a", "-c", "--fsync", f"{source}/", f"{target}/"] if cold else ["sh", "-c", copied]
    commands = {"ours": [sys.executable, "-c", OURS, str(target), str(source)], "other": other}
    found: dict[str, list[float]] = {side: [] for side in commands}
    for number in range(rounds + 1):
        for side in sorted(commands, reverse=bool(number % 2)):
            shutil.rmtree(target, ignore_errors=True)
            os.sync()  # what the other side left dirty is not ours to write
            if cold:
                drop_caches()
            start = time.perf_counter()
            done = subprocess.run(commands[side], capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise RuntimeError(f"{side} failed: {done.stderr[-2000:]}")
            if number:
                found[side].append(seconds)
    shutil.rmtree(target, ignore_errors=True)
    return Sides(found)


def drop_caches() -> bool:
    """Whether the page cache could be dropped."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


# Unchanged files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Again:
    """A release published anew with another config: shares of the first publish's seconds and of the release's bytes."""

    seconds: float
    bytes: float


def publish_again(source: Path, scratch: Path, rounds: int) -> Again:
    """Medians over several fresh stores, in this process."""
    expected = {source / e.path: e.sha256 for e in hash_folder(source)}
    seconds, moved = [], []
    for _ in range(rounds):
        store = FileStore(scratch / "again")
        first = _timed(partial(publish, store, source, expected=expected))
        before = _written()
        second = _timed(partial(publish, store, source, config="# changed\n", expected=expected))
        seconds.append(second / first)
        moved.append((_written() - before) / store.manifest(MODEL, 2).size)
        if store.verify(MODEL, 2):
            raise RuntimeError("the second release is not whole")
        shutil.rmtree(store.root)
    return Again(statistics.median(seconds), statistics.median(moved))


def _written() -> int:
    """Bytes that this process has given to write calls."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Many releases --------------------------------------------------------------------------------------------------------


def many_releases(folder: Path, source: Path, count: int) -> FileStore:
    """A store with so many releases of small files, made without publishing each."""
    store = FileStore(folder)
    publish(store, source)
    model = ModelFolder(folder, MODEL)
    first = store.repository(MODEL, 1) / MODEL / "1"
    files = store.manifest(MODEL, 1).files
    last = store.manifest(MODEL, 1)
    for number in range(2, count + 1):
        version = model.repository(number) / MODEL / str(number)
        version.mkdir(parents=True)
        model.records(number).mkdir()
        for path in first.iterdir():
            os.link(path, version / path.name)
        text = f'name: "{MODEL}"\nversion_policy {{ specific {{ versions: [{number}] }} }}\n'.encode()
        (model.repository(number) / MODEL / "config.pbtxt").write_bytes(text)
        renamed = [FileEntry(e.path.replace("/1/", f"/{number}/"), e.size, e.sha256) for e in files]
        entries = tuple(e if not e.path.endswith("config.pbtxt") else _entry(e.path, text) for e in renamed)
        last = _manifest(number, entries, f"{number:064x}")
        model.manifest(number).write_text(last.to_text())
    model.describe(published=count)
    write_index(model, model.numbers(), last)
    return store


def _entry(path: str, content: bytes) -> FileEntry:
    import hashlib

    return FileEntry(path, len(content), hashlib.sha256(content).hexdigest())


def compare_counts(scratch: Path, counts: tuple[int, int], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of list, promote, find and publish in a store with few and in one with many releases, in turns.

    To find is to look for a build key that no release has, which is a part of every run.
    """
    from enginepress.recipe import Recipe
    from enginepress.steps.overview import SHOWN, overview

    source = make_release(scratch / "tiny", big=(1, MIB), small=(20, 4096))
    stores = [many_releases(scratch / f"store{count}", source, count) for count in counts]
    expected = {source / e.path: e.sha256 for e in hash_folder(source)}
    recipes = [Recipe.model_validate({"name": MODEL, "source": "file:///c", "stores": [f"file://{s.root}"]}) for s in stores]
    found: dict[str, tuple[list[float], list[float]]] = {n: ([], []) for n in ("list", "promote", "find", "publish")}
    for turn in range(rounds + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            store, recipe = stores[side], recipes[side]
            seconds = {
                "list": _timed(partial(overview, recipe, newest=SHOWN)),
                "promote": _timed(partial(_promote, store, store.numbers(MODEL)[turn % 10])),
                "find": _timed(partial(store.find, MODEL, "f" * 64)),
                "publish": _timed(partial(publish, store, source, config=f"# {turn}\n", expected=expected)),
            }
            for name, taken in seconds.items():
                if turn:
                    found[name][side].append(taken)
    for store in stores:
        shutil.rmtree(store.root)
    return {name: (statistics.median(few), statistics.median(many)) for name, (few, many) in found.items()}


def _promote(store: FileStore, number: int) -> None:
    version = store.repository(MODEL, number) / MODEL / str(number)
    config = (version.parent / "config.pbtxt").read_bytes()
    linked = {f"{MODEL}/{number}/{p.name}": p for p in version.iterdir()}
    placement = Placement(number, {f"{MODEL}/config.pbtxt": config}, linked)
    store.activate(MODEL, "production", number, lambda _root: placement, who="bench", why="bench")


# Memory ---------------------------------------------------------------------------------------------------------------


def peak_memory(scratch: Path, size: int) -> int:
    """MiB that publishing so many bytes, in four files, takes at most."""
    source = make_release(scratch / "sparse", big=(4, size // 4), small=(0, 0), sparse=True)
    done = subprocess.run(
        [sys.executable, "-c", OURS, str(scratch / "memory"), str(source)], capture_output=True, text=True, check=True
    )
    shutil.rmtree(scratch / "memory")
    shutil.rmtree(source)
    return int(done.stdout)


# The table ------------------------------------------------------------------------------------------------------------


def rows(folder: Path, rounds: int) -> list[tuple[str, ...]]:
    """For benchmarks.all."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    source = make_release(folder / "source")
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    what = "publishing 4 x 256 MiB and 200 small files to a folder, hashed and synced"
    copied = compare(source, scratch, rounds, cold=False)
    found: list[tuple[str, ...]] = [
        (
            what,
            copied.text("ours"),
            f"`cp -a`, `sync -f`, `openssl dgst -sha256`: {copied.text('other')}",
            f"{copied.ratio('ours', 'other'):.2f}",
            "at most 1.0",
        )
    ]
    if shutil.which("rsync"):
        temperature = "cold" if drop_caches() else "warm"
        synced = compare(source, scratch, rounds, cold=True)
        found.append(
            (
                f"the same, {temperature}",
                synced.text("ours"),
                f"`rsync -c --fsync`, {temperature}: {synced.text('other')}",
                f"{synced.ratio('ours', 'other'):.2f}",
                "at most 0.5",
            )
        )
    again = publish_again(source, scratch, rounds)
    found.append(
        (
            "publishing it again with only config.pbtxt changed",
            f"{again.bytes:.3%} of the bytes written, {again.seconds:.1%} of the time",
            "publishing it for the first time, in process",
            f"{again.seconds:.3f}",
            "under 1 %, under 5 %",
        )
    )
    for name, (few, many) in compare_counts(scratch, (10, 2000), 4 * rounds + 1).items():
        what, measured = f"{name} in a store with 2,000 releases", f"{many * 1000:.1f} ms"
        wanted = "at most 2" if name != "find" else ""
        found.append((what, measured, f"in a store with 10: {few * 1000:.1f} ms", f"{many / few:.2f}", wanted))
    peaks = [peak_memory(scratch, gib * 1024 * MIB) for gib in (1, 8)]
    measured = " and ".join(f"{peak} MiB" for peak in peaks)
    found.append(("peak memory of publishing 1 and 8 GiB", measured, "", "", "at most 250 MiB"))
    shutil.rmtree(scratch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "var" / "benchmarks" / "publish")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(json.dumps(rows(arguments.folder, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()
