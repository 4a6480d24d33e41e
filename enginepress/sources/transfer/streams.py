"""The streams that fetch one large file, and the hash that follows them.

A stream takes the next piece that is missing, asks for it, and puts its blocks to their places. It tries again as long as
bytes arrive now and then; one that has tried in vain leaves its piece to the others, and the last one of them fails the
file. Whatever a server answers, a block only ever goes where the answer says that it belongs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from enginepress.errors import SourceError
from enginepress.sources import Body, Interrupted, Progress, RemoteFile
from enginepress.sources.transfer.hashes import FileHash
from enginepress.sources.transfer.pace import PROGRESS_BYTES, Bandwidth, Trickle, pause_before
from enginepress.sources.transfer.partial import Partial
from enginepress.sources.transfer.ranges import Span, pieces
from enginepress.sources.transfer.receive import Stopped, could_not_be_fetched

HASH_BYTES = 1024 * 1024
FAST_BYTES = 64_000_000
"""Bytes a second: streams that bring this much each need no other beside them. On a long line one seldom does; on a short one
more would only add to what is under way, and so to what a killed process loses."""

MAX_RESTARTS = 3
"""So often may a file change while it is fetched."""


class Shared(Protocol):
    """What a download gives to each of its files. See transfer.fetch.Download."""

    pauses: Sequence[float]
    piece_bytes: int
    streams: int
    ramp_seconds: float
    stop: threading.Event
    bandwidth: Bandwidth

    @property
    def share(self) -> int: ...
    @property
    def mismatch(self) -> tuple[str, str]: ...
    def open_range(self, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Body]: ...
    def where(self, file: RemoteFile) -> str: ...


class WrongBytes(Exception):
    """All bytes are there and they are not the published ones."""

    def __init__(self, error: SourceError) -> None:
        super().__init__(str(error))
        self.error = error


class _Anew(Exception):
    """What this stream is fetching is of no use any more."""


class _Retired(Exception):
    """This stream has tried in vain; others go on."""


@dataclass
class _Piece:
    """What one stream is at: `at` is how far it has come, `epoch` which state of the file it belongs to.

    `failures` counts attempts in vain; `brought` are the bytes since it was last begun anew.
    """

    at: int
    stop: int
    epoch: int
    failures: int = 0
    brought: int = 0


class Streams:
    """One attempt at a file, from what its partial file has to its verified end."""

    def __init__(self, shared: Shared, file: RemoteFile, partial: Partial, progress: Progress) -> None:
        self._shared = shared
        self._file = file
        self._partial = partial
        self._progress = progress
        self._lock = threading.RLock()
        self._grown = threading.Condition(self._lock)  # what the hash waits for: bytes
        self._changed = threading.Condition(self._lock)  # what everybody else waits for
        self._todo: list[Span] = pieces(partial.spans, file.size, shared.piece_bytes)
        self._under_way = 0
        self._whole: _Piece | None = None
        self._last_start = (0.0, 0)
        self._restarts = self._told = 0
        self._hashes = FileHash(file)
        self._over = False

    def run(self) -> str:
        """Returns the sha256 (hex).

        Raises:
            SourceError, WrongBytes, Stopped.
        """
        self._tell()
        helpers = min(len(self._todo), self._shared.streams)
        with ThreadPoolExecutor(helpers + 1, thread_name_prefix="stream") as pool:
            try:
                self._wait([pool.submit(self._follow), *(pool.submit(self._help) for _ in range(helpers))])
            finally:
                with self._lock:
                    self._over = True
                    self._changed.notify_all()
                    self._grown.notify_all()
        try:
            self._hashes.check(self._shared.where(self._file), self._shared.mismatch)
        except SourceError as error:
            raise WrongBytes(error) from None
        return self._hashes.sha256

    def _wait(self, futures: list[Future[None]]) -> None:
        """Until the hash has reached the end, or somebody failed."""
        for future in futures:
            future.add_done_callback(self._wake)
        with self._lock:
            while True:
                hashing, *helping = futures
                if hashing.done():  # only the hash's end ends it: it may be far behind the streams
                    return hashing.result()
                for future in helping:
                    # Once the hash has seen the last byte, a stream that still was at something has nothing to say.
                    if future.done() and not self._over:
                        future.result()
                if self._shared.stop.is_set():
                    raise Stopped
                self._changed.wait(1.0)

    def _wake(self, future: Future[None]) -> None:
        with self._lock:
            self._changed.notify_all()

    # The hash ---------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Hashes the contiguous prefix as it grows."""
        while True:
            with self._grown:
                hashes = self._hashes
                if hashes.size == self._file.size:
                    self._over = True
                if self._over:
                    return
                count = min(self._partial.spans.prefix - hashes.size, HASH_BYTES)
                if count <= 0:
                    self._grown.wait(1.0)
                    continue
            block = self._partial.read(hashes.size, count)
            if not block:
                with self._lock:  # whoever just begins the file anew has to come to the new hashes first
                    if hashes is not self._hashes:
                        continue
                raise WrongBytes(SourceError("was changed from outside while it was fetched", where=str(self._partial.path)))
            hashes.update(block)  # a change of version leaves these hashes behind

    # One stream -------------------------------------------------------------------------------------------------------

    def _help(self) -> None:
        """One stream's life: takes pieces until none are left."""
        while (piece := self._take()) is not None:
            retired = False
            try:
                self._finish(piece)
            except _Anew:
                pass
            except _Retired:
                retired = True
                return
            finally:
                if not retired:
                    self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._under_way -= 1
            self._changed.notify_all()

    def _take(self) -> _Piece | None:
        """The next piece, when one is missing and this file may have another stream; None when nothing is left to do.

        A stream whose server ignores ranges fetches all of it, so the others wait for its end.
        """
        with self._lock:
            while not self._over:
                while self._todo:
                    if not self._may_start():
                        break
                    start, stop = self._todo.pop(0)
                    gaps = list(self._partial.spans.missing(start, stop))
                    if gaps:
                        self._todo[:0] = gaps[1:]
                        self._under_way += 1
                        self._last_start = (time.monotonic(), self._told)
                        return _Piece(*gaps[0], self._partial.epoch)
                if not self._todo and not self._under_way:
                    return None
                self._changed.wait(0.1)
        return None

    def _may_start(self) -> bool:
        """Whether another stream would help, and may be had."""
        if self._under_way == 0:
            return True
        if self._under_way >= self._shared.share or self._whole is not None:
            return False
        seconds = time.monotonic() - self._last_start[0]
        return seconds >= self._shared.ramp_seconds and self._told - self._last_start[1] < seconds * self._under_way * FAST_BYTES

    def _finish(self, piece: _Piece) -> None:
        """Fetches a piece to its end, trying again as long as that helps."""
        while piece.at < piece.stop:
            try:
                self._receive(piece)
                if piece.at < piece.stop:
                    raise Interrupted("the answer ended early")
            except Interrupted as error:
                self._pause(piece, error)
            finally:
                if self._whole is piece:
                    self._whole = None

    def _receive(self, piece: _Piece) -> None:
        trickle = Trickle()
        with self._shared.open_range(self._file, piece.at, piece.stop) as body:
            self._compare_version(body, piece)
            at, stop = body.start, piece.stop
            if at != piece.at:
                stop = self._take_whole(body, piece)
            for block in body.blocks:
                self._shared.bandwidth.spend(len(block))
                if self._shared.stop.is_set() or self._over:
                    raise Stopped
                view = memoryview(block)[: stop - at]
                new = self._partial.write(at, view, piece.epoch)
                if new is None:
                    raise _Anew
                at += len(view)
                piece.at = max(piece.at, min(at, piece.stop))
                if new:
                    piece.brought += new
                    if piece.brought >= PROGRESS_BYTES:
                        piece.failures = piece.brought = 0
                    self._tell()
                if at >= stop:
                    return
                if trickle.is_stalled(len(block)):
                    raise Interrupted("almost nothing arrives")

    def _take_whole(self, body: Body, piece: _Piece) -> int:
        """The server sends the whole file instead of a part: one stream is enough then, and the others leave it to that one."""
        if body.start != 0:
            raise Interrupted("the server sent another part of the file than the one it was asked for")
        with self._lock:
            if self._whole is not None:
                self._todo.insert(0, (piece.at, piece.stop))
                raise _Anew
            self._whole = piece
        return self._file.size

    def _pause(self, piece: _Piece, error: Interrupted) -> None:
        pauses = self._shared.pauses
        if piece.failures >= len(pauses):
            with self._lock:
                if self._under_way > 1:
                    self._todo.insert(0, (piece.at, piece.stop))
                    self._leave()  # at once: of two that give up together, one must see that it is the last
                    raise _Retired
            raise could_not_be_fetched(self._file, self._partial.spans.total, error, self._shared.where(self._file))
        seconds = pause_before(piece.failures, pauses, error.wait)
        piece.failures += 1
        if self._shared.stop.wait(seconds) or self._over:
            raise Stopped

    # Changes of the file ----------------------------------------------------------------------------------------------

    def _compare_version(self, body: Body, piece: _Piece) -> None:
        """A file that has another ETag than before is another file: what came of the old one is thrown away.

        Where a digest was published, an ETag that keeps changing is not believed: some mirrors give one for each of their
        machines, and the digest finds out in the end.
        """
        version = body.version
        if self._file.digest.algorithm == "none":
            # No digest would find a mix of two files, so what is weaker than an ETag counts too, and so does its absence.
            version = version or body.mark
        elif version is None:
            return
        with self._lock:
            if self._over:
                raise Stopped
            if piece.epoch != self._partial.epoch:
                raise _Anew
            if self._partial.version == version:
                return
            if self._partial.version is None and version is not None:
                self._partial.set_version(version)
                return
            self._restarts += 1
            if self._restarts > MAX_RESTARTS:
                if self._file.digest.algorithm != "none":
                    return
                raise SourceError(
                    "keeps changing while it is fetched",
                    where=self._shared.where(self._file),
                    fix="run again when whoever writes it has finished, or name a version that stays",
                )
            self._partial.forget(version)
            self._hashes = FileHash(self._file)
            self._todo = pieces(self._partial.spans, self._file.size, self._shared.piece_bytes)
            raise _Anew

    def _tell(self) -> None:
        with self._lock:
            total = self._partial.spans.total
            self._grown.notify_all()
            if total > self._told:
                count, self._told = total - self._told, total
                self._progress(count)
