"""Processes that publish and promote, and a reader that looks at a channel all the time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from enginepress.errors import StoreError
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL


def run_parts(*arguments: str) -> subprocess.Popen[str]:
    """`tests.stores.parts` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stores.parts", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Reader:
    """Does what a server does with a channel, over and over: resolves it once, then reads in that folder.

    Leaving it as a context manager stops it, too.
    """

    def __init__(self, channel: Path) -> None:
        self.channel = channel
        self.problems: list[str] = []
        self._stop = threading.Event()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> int:
        """Reads until it is stopped; how often it did."""
        reads = 0
        while not self._stop.is_set():
            if self.channel.is_symlink():
                os.stat(self.channel)
                self._read(Path(os.path.realpath(self.channel)))
                reads += 1
        return reads

    def _read(self, folder: Path) -> None:
        try:
            versions = sorted(p.name for p in (folder / MODEL).iterdir())
            config = (folder / MODEL / "config.pbtxt").read_text()
            parts = len(list((folder / MODEL / versions[0] / "engine").iterdir()))
            if len(versions) != 2 or f"[{versions[0]}]" not in config or parts != 3:
                self.problems.append(f"{folder}: {versions}, {parts} files, {config}")
        except FileNotFoundError as error:
            # Only the folder before is kept: a reader that was held up during two moves looks again.
            if Path(os.path.realpath(self.channel)) == folder:
                self.problems.append(str(error))


@contextmanager
def watched(store: FileStore) -> Iterator[list[str]]:
    """A reader of the channel and one of the releases, all the time; yields what they met."""
    problems: list[str] = []
    stop = threading.Event()
    channel = Reader(store.root / MODEL / "channels/production")

    def look() -> None:
        while not stop.is_set():
            for number in store.numbers(MODEL):
                try:
                    different = [str(d) for d in store.verify(MODEL, number)]
                except StoreError as error:
                    different = [str(error)]
                # A release that was removed while it was looked at is no longer in the list.
                if different and number in store.numbers(MODEL):
                    problems.append(f"release {number}: {different}")
            stop.wait(0.002)

    with ThreadPoolExecutor(2) as pool, channel:
        tasks = [pool.submit(look), pool.submit(channel.run)]
        try:
            yield problems
        finally:
            stop.set()
            channel.stop()
        for task in tasks:
            task.result()
        problems += channel.problems
