"""Sends the files of a repository: several at a time, large ones in parts, each byte hashed on its way out or where it arrives.

Every request carries a digest of its body that the server compares. Where that is the sha256 of the payload and those of a
file's pieces are known from building, only the server hashes: it takes no piece that is not what it was, and so the whole file
is. Where it is another digest, what the server has afterwards is compared once more by its ETag, if that is the MD5. What an
earlier publisher sent of the same file is not sent again: parts and objects are kept if their ETags are those of our bytes,
which are read and hashed then.

No object with wrong bytes ever appears: a small file is hashed before it is sent, the parts of a large one become an object
only after all of them have been compared. Memory is bounded by `BUDGET_BYTES`, whatever the size of the files.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import FileEntry, explain_os_error, read_into
from enginepress.pieces import PIECE_BYTES
from enginepress.stores.s3.buffers import Buffers
from enginepress.stores.s3.client import BLOCK, Missing, StoreClient, Stored, Unmet, Unsupported
from enginepress.stores.s3.digests import ALGORITHMS, Body, completing, digest_parameters, empty_md5, etag_of, md5_of
from enginepress.stores.s3.items import Changed, Item, Sent, Twin, check_expected, size_of
from enginepress.stores.s3.probe import Guarantees
from enginepress.stores.store import Progress

MIB = 1024 * 1024
PART_BYTES = PIECE_BYTES
MOST_PARTS = 10_000
BUDGET_BYTES = 96 * MIB
AT_ONCE = 8
COPY_PART_BYTES = 256 * MIB
"""Larger copies within the server are made in parts of this size, so that each request is short."""


def part_bytes(size: int) -> int:
    """The size of parts of a file: all of them but the last."""
    least = -(-size // MOST_PARTS)
    return max(PART_BYTES, -(-least // MIB) * MIB)


class Sender:
    """Sends files below one folder of the bucket.

    Args:
        folder: ends with a slash.
        present: objects that a publisher before left there, by key.
        uploads: uploads in parts that it had begun, by key.
    """

    def __init__(
        self,
        client: StoreClient,
        guarantees: Guarantees,
        folder: str,
        *,
        present: Mapping[str, Stored],
        uploads: Mapping[str, str],
        progress: Progress | None,
    ) -> None:
        self._client = client
        self._guarantees = guarantees
        self._folder = folder
        self._present = present
        self._uploads = uploads
        self._progress = progress
        self._progress_lock = threading.Lock()
        self._stop = threading.Event()
        self._buffers = Buffers(AT_ONCE, PART_BYTES)
        # MD5 takes more time than all else. Where the server compares the sha256 of what arrives, nothing is won by it.
        self._with_md5 = guarantees.digest != "payload"

    def send(self, items: Sequence[Item]) -> list[Sent]:
        """All files, the largest first.

        Raises:
            StoreError: what the first failed file says; parts that were sent stay for the next attempt.
        """
        sizes = {item.path: size_of(item) for item in items}
        part = part_bytes(max(sizes.values(), default=0))
        self._buffers = Buffers(max(1, min(AT_ONCE, BUDGET_BYTES // part)), part)
        ordered = sorted(items, key=lambda item: -sizes[item.path])
        with ThreadPoolExecutor(AT_ONCE, "s3-file") as files, ThreadPoolExecutor(AT_ONCE, "s3-part") as parts:
            futures = [files.submit(self._one, item, sizes[item.path], parts) for item in ordered]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                files.shutdown(wait=True, cancel_futures=True)
        failed = [f for f in done if f.exception() is not None and not isinstance(f.exception(), _Stopped)]
        if failed:
            failed[0].result()
        return [future.result() for future in futures]

    def _one(self, item: Item, size: int, parts: ThreadPoolExecutor) -> Sent:
        if self._stop.is_set():
            raise _Stopped
        key = self._folder + item.path
        try:
            if item.twin is not None and item.sha256 is not None and self._copy(item.twin, key):
                self._tell(item.twin.size)
                return Sent(FileEntry(item.path, item.twin.size, item.sha256), "", 0)
            if size <= part_bytes(size):
                return self._small(item, key, size)
            return self._large(item, key, size, parts)
        except OSError as error:
            raise explain_os_error(error, "reading what is published", StoreError) from None
        except Missing:
            raise _gone(self._client.where(key)) from None

    def _tell(self, count: int) -> None:
        if self._progress is not None:
            with self._progress_lock:
                self._progress(count)

    # Small files ------------------------------------------------------------------------------------------------------

    def _small(self, item: Item, key: str, size: int) -> Sent:
        with self._buffers.of(size):
            data = item.source if isinstance(item.source, bytes) else _read_whole(item.source, size)
            entry = FileEntry(item.path, len(data), hashlib.sha256(data).hexdigest())
            check_expected(item, entry)
            there = self._present.get(key)
            md5 = md5_of(data) if there is not None or self._with_md5 else None
            if there is not None and md5 and self._guarantees.etag_md5 and (there.size, there.etag) == (len(data), md5.hex()):
                self._tell(len(data))
                return Sent(entry, there.etag, 0)
            etag = self._client.put(
                key, data, digest=digest_parameters(self._guarantees.digest, data, md5=md5, sha256=entry.sha256)
            )
            self._compare(key, etag, md5)
        self._tell(len(data))
        return Sent(entry, etag, len(data))

    def _compare(self, key: str, etag: str, md5: bytes | None) -> None:
        if md5 is not None and self._guarantees.etag_md5 and etag != md5.hex():
            raise StoreError(
                f"arrived damaged: the server has MD5 {etag}, and {md5.hex()} was sent",
                where=self._client.where(key),
                fix="run again; if it happens again, something between here and the server changes what is sent",
            )

    # Large files ------------------------------------------------------------------------------------------------------

    def _large(self, item: Item, key: str, size: int, pool: ThreadPoolExecutor) -> Sent:
        assert isinstance(item.source, Path), "contents that placing writes are small"
        there = self._present.get(key)
        if there is not None and there.size == size and self._guarantees.etag_md5:
            entry, etag = _hashed(item, size)
            if etag == there.etag:
                check_expected(item, entry)
                self._tell(size)
                return Sent(entry, etag, 0)
        upload = self._uploads.get(key)
        known = self._client.parts(key, upload) if upload is not None and self._guarantees.etag_md5 else {}
        if upload is None or not known:
            upload = self._client.begin(key, algorithm=ALGORITHMS.get(self._guarantees.digest))
        return self._in_parts(item, item.source, key, size, upload, known, pool)

    def _in_parts(
        self,
        item: Item,
        source: Path,
        key: str,
        size: int,
        upload: str,
        known: Mapping[int, tuple[int, str]],
        pool: ThreadPoolExecutor,
    ) -> Sent:
        digest, read = hashlib.sha256(), 0
        pieces = self._pieces(item, size)
        futures: list[Future[_Part]] = []
        with open(source, "rb", buffering=0) as stream:
            while True:
                buffer = self._buffers.take()
                if self._stop.is_set() or any(f.done() and f.exception() is not None for f in futures):
                    self._buffers.give(buffer)
                    break
                count = read_into(stream, memoryview(buffer)[: part_bytes(size)])
                if not count:
                    self._buffers.give(buffer)
                    break
                if not pieces:
                    # Hashed before it is handed over: afterwards it may hold another part already.
                    digest.update(memoryview(buffer)[:count])
                read += count
                del buffer[count:]
                piece = pieces[len(futures)] if len(futures) < len(pieces) else ""
                futures.append(pool.submit(self._part, item, key, upload, len(futures) + 1, buffer, known, piece))
        wait(futures)
        try:
            sent = [future.result() for future in futures]
            if self._stop.is_set():
                raise _Stopped
            entry = FileEntry(item.path, read, digest.hexdigest() if not pieces else item.sha256 or "")
            if read != size:
                raise Changed(item, f"it had {size} bytes, and now it has {read}")
            check_expected(item, entry)
        except Changed:
            self._client.abort(key, upload)
            raise
        wanted = _etag_in_parts(sent) if self._guarantees.etag_md5 else ""
        self._complete(key, upload, sent, size, wanted)
        return Sent(entry, wanted, sum(p.moved for p in sent))

    def _pieces(self, item: Item, size: int) -> tuple[str, ...]:
        """Digests of the parts, if the server can be left to compare them; else the file is hashed as it is sent."""
        part, pieces = part_bytes(size), item.pieces
        if self._guarantees.digest != "payload" or item.sha256 is None or pieces is None or pieces.size != part:
            return ()
        return pieces.sha256 if len(pieces.sha256) == -(-size // part) else ()

    def _part(
        self, item: Item, key: str, upload: str, number: int, data: Body, known: Mapping[int, tuple[int, str]], piece: str
    ) -> _Part:
        """Sends one part, unless it is there.

        Args:
            piece: its sha256; "" if that is not known.
        """
        try:
            if self._stop.is_set():
                raise _Stopped
            there = known.get(number)
            md5 = md5_of(data) if there is not None or self._with_md5 else None
            if there is not None and md5 and there == (len(data), md5.hex()):
                _check_piece(item, number, data, piece)
                self._tell(len(data))
                return _Part(number, there[1], {}, 0)
            digest = digest_parameters(self._guarantees.digest, data, md5=md5, sha256=piece)
            try:
                etag = self._client.put_part(key, upload, number, data, digest=digest)
            except StoreError:
                _check_piece(item, number, data, piece)  # if it is the file that is wrong, that is told
                raise
            self._compare(f"{key} part {number}", etag, md5)
            self._tell(len(data))
            return _Part(number, etag, completing(digest), len(data))
        finally:
            self._buffers.give(data)

    def _complete(self, key: str, upload: str, parts: Sequence[_Part], size: int, wanted: str) -> None:
        try:
            self._client.complete(key, upload, [(p.number, p.etag, p.checks) for p in parts])
        except Missing:
            # Completed by an attempt whose answer was lost: then the object is there.
            try:
                stored = self._client.head(key)
            except Missing:
                stored = None
            if stored is None or stored.size != size or (wanted and stored.etag != wanted):
                raise _gone(self._client.where(key)) from None

    # Copies within the server -----------------------------------------------------------------------------------------

    def _copy(self, twin: Twin, key: str) -> bool:
        """False if it must be sent."""
        quoting = self._guarantees.copy_match
        condition = f'"{twin.etag}"' if quoting == "quoted" else twin.etag
        try:
            if quoting == "none" and self._client.head(twin.key).etag != twin.etag:
                return False
            if twin.size <= COPY_PART_BYTES:
                self._client.copy(twin.key, key, etag=condition)
                return True
            upload = self._client.begin(key)
            spans = [(at, min(at + COPY_PART_BYTES, twin.size)) for at in range(0, twin.size, COPY_PART_BYTES)]
            with ThreadPoolExecutor(AT_ONCE, "s3-copy") as pool:
                etags = list(
                    pool.map(
                        lambda numbered: self._client.copy_part(
                            key, upload, numbered[0], source=twin.key, etag=condition, start=numbered[1][0], stop=numbered[1][1]
                        ),
                        enumerate(spans, start=1),
                    )
                )
            self._client.complete(key, upload, [(n, etag, {}) for n, etag in enumerate(etags, start=1)])
            return True
        except (Missing, Unmet, Unsupported):
            return False


@dataclass(frozen=True)
class _Part:
    number: int
    etag: str
    checks: Mapping[str, str]
    moved: int


def _etag_in_parts(parts: Sequence[_Part]) -> str:
    """The ETag that the server must give to the whole; "" if those of the parts are no MD5."""
    if not all(re.fullmatch(r"[0-9a-f]{32}", part.etag) for part in parts):
        return ""
    return etag_of([bytes.fromhex(part.etag) for part in parts], in_parts=True)


def _check_piece(item: Item, number: int, data: Body, piece: str) -> None:
    """Raises Changed if these bytes are not the piece of this number. Without a digest of it nothing is compared."""
    if piece and hashlib.sha256(data).hexdigest() != piece:
        assert item.pieces is not None
        raise Changed(item, f"{len(data)} bytes from {(number - 1) * item.pieces.size} on are others")


def _gone(where: str) -> StoreError:
    return StoreError(
        "the upload in parts was removed while it was under way",
        where=where,
        fix="run again; a lifecycle rule that removes uploads must leave them at least a day",
    )


class _Stopped(Exception):
    """Another file has failed."""


def read_back(client: StoreClient, folder: str, sent: Sequence[Sent], hashed: Callable[[str, FileEntry], str | None]) -> None:
    """Compares what the server has with what was sent.

    Args:
        hashed: sha256 of an object's bytes, read again.
    """
    with ThreadPoolExecutor(AT_ONCE, "s3-read-back") as pool:
        for file, found in zip(sent, pool.map(lambda s: hashed(folder + s.entry.path, s.entry), sent), strict=True):
            if found != file.entry.sha256:
                raise StoreError(
                    f"the server has other bytes than were sent: their sha256 is {found}, not {file.entry.sha256}",
                    where=client.where(folder + file.entry.path),
                    fix="run again; if it happens again, the server or something before it damages files",
                )


def _read_whole(path: Path, size: int) -> Body:
    """A small file; whether it has changed since it was this large is for its digest to tell."""
    data = Body(size)
    with open(path, "rb", buffering=0) as stream:
        del data[read_into(stream, memoryview(data)) :]
        data += stream.read()
    return data


def _hashed(item: Item, size: int) -> tuple[FileEntry, str]:
    """The file's sha256, and the ETag that it has when it is sent in our parts."""
    assert isinstance(item.source, Path)
    digest, parts, read, whole = hashlib.sha256(), [], 0, part_bytes(size)
    part, left, buffer = empty_md5(), whole, memoryview(bytearray(BLOCK))
    with open(item.source, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer[:left]):
            digest.update(buffer[:count])
            part.update(buffer[:count])
            read, left = read + count, left - count
            if not left:
                parts.append(part.digest())
                part, left = empty_md5(), whole
    if left < whole:
        parts.append(part.digest())
    return FileEntry(item.path, read, digest.hexdigest()), etag_of(parts, in_parts=True)
