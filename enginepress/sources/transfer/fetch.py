"""Fetches one file into the partial store, from however many streams at once, and admits it there by its digest.

Small files come in one piece and are hashed block by block as they arrive. Large ones are fetched in pieces, a few streams
at a time; every block goes to its place in the partial file, and one thread follows the contiguous prefix and hashes it
while the rest arrives. What an earlier process left is kept, and read and hashed again like everything else.

Blocks go straight from the socket to the file and are read back for hashing from the page cache, so memory does not grow
with the file, nor with how far the streams are ahead of the hash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from enginepress.sources import AbortingSource, Body, CheckpointSource, PlacingSource, Progress, RemoteFile, Revision
from enginepress.sources.transfer.hashes import MISMATCH, FileHash
from enginepress.sources.transfer.pace import PAUSES, Bandwidth
from enginepress.sources.transfer.partial import Partial, PartialStore
from enginepress.sources.transfer.receive import Stopped, receive
from enginepress.sources.transfer.streams import HASH_BYTES, Streams, WrongBytes


@dataclass
class Download:
    """What all files of one download share.

    Attributes:
        source, revision: what is fetched.
        store: where it lies until it is complete.
        pauses: seconds before each further attempt.
        bytes_per_second: cap on the bandwidth, or None.
        streams: requests under way at the same time, of all files together.
        piece_bytes: what one request asks for of a large file.
        ramp_seconds: so long the streams of a file are watched before it gets another one.
        small_bytes: a file up to this size is fetched in one piece, and from its start after a kill.
        stop: set when the download is given up: everybody returns soon.
    """

    source: CheckpointSource
    revision: Revision
    store: PartialStore
    pauses: Sequence[float] = PAUSES
    bytes_per_second: float | None = None
    streams: int = 8
    piece_bytes: int = 64 * 1024 * 1024
    ramp_seconds: float = 0.25
    small_bytes: int = 4 * 1024 * 1024
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.bandwidth = Bandwidth(self.bytes_per_second, self.stop.wait)
        self._active = 0
        self._lock = threading.Lock()

    @property
    def share(self) -> int:
        """Streams that one file may have now."""
        return max(1, self.streams // max(1, self._active))

    def fetch(self, file: RemoteFile, target: Path, progress: Progress) -> str:
        """Brings one file to `target` in the store, verified; returns its sha256 (hex). Large ones are synced as well.

        Killed or given up, it leaves a partial file with which the next call goes on.

        Raises:
            SourceError: if the connection keeps breaking, or if the bytes are not those that the source published.
            Stopped: if `stop` was set.
        """
        with self._lock:
            self._active += 1
        try:
            if self._place(file, target):
                sha256 = self._hash_placed(file, target, progress)
            elif file.size <= self.small_bytes:
                sha256 = self._fetch_small(file, target, progress)
            else:
                sha256 = self._fetch_large(file, target, progress)
        finally:
            with self._lock:
                self._active -= 1
        self.store.clean(file)
        return sha256

    def give_up(self) -> None:
        """Ends all that is under way: soon, whatever the source's server does."""
        self.stop.set()
        if isinstance(self.source, AbortingSource):
            self.source.abort()

    def open_range(self, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]:
        return self.source.open_range(self.revision, file, start, stop)

    def where(self, file: RemoteFile) -> str:
        return self.source.where(self.revision, file)

    @property
    def mismatch(self) -> tuple[str, str]:
        return self.source.mismatch if isinstance(self.source, PlacingSource) else MISMATCH

    # Three ways -------------------------------------------------------------------------------------------------------

    def _place(self, file: RemoteFile, target: Path) -> bool:
        return isinstance(self.source, PlacingSource) and self.source.place(self.revision, file, target)

    def _hash_placed(self, file: RemoteFile, target: Path, progress: Progress) -> str:
        hashes = FileHash(file)
        try:
            with open(target, "rb") as stream:
                while block := stream.read(HASH_BYTES):
                    if self.stop.is_set():
                        raise Stopped
                    hashes.update(block)
                    progress(len(block))
            hashes.check(self.where(file), self.mismatch)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return hashes.sha256

    def _fetch_small(self, file: RemoteFile, target: Path, progress: Progress) -> str:
        path = self.store.new_path(file)
        try:
            with open(path, "xb", buffering=0) as out:
                sha256 = receive(
                    file,
                    lambda start, stop: self.open_range(file, start, stop),
                    out,
                    where=self.where(file),
                    progress=progress,
                    pauses=self.pauses,
                    mismatch=self.mismatch,
                    bandwidth=self.bandwidth,
                    stop=self.stop,
                )
                if file.digest.algorithm == "none":
                    os.fsync(out.fileno())  # nothing would find out that its bytes were lost with the machine's power
            os.rename(path, target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return sha256

    def _fetch_large(self, file: RemoteFile, target: Path, progress: Progress) -> str:
        partial = Partial(self.store, file)
        try:
            try:
                sha256 = Streams(self, file, partial, progress).run()
            except WrongBytes:
                if not partial.resumed:
                    raise
                # What an earlier process left was damaged, or its record was: a machine may have lost power. From nothing, then.
                partial.forget(None)
                sha256 = Streams(self, file, partial, lambda count: None).run()
            partial.sync()
            partial.admit(target)
        except WrongBytes as wrong:
            partial.discard()
            raise wrong.error from None
        except BaseException:
            partial.give_up()
            raise
        return sha256
