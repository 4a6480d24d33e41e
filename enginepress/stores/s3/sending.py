"""Sends the files of a repository: several at a time, large ones in parts, each byte hashed on its way out.

Every request carries a digest of its body that the server compares. Where that is not the sha256 of the payload, what the
server has afterwards is compared once more by its ETag, if that is the MD5. What an earlier publisher sent of the same file is
not sent again: parts and objects are kept if their ETags are those of our bytes, which are read and hashed in any case.

No object with wrong bytes ever appears: a small file is hashed before it is sent, the parts of a large one become an object
only after the whole file has been hashed. Memory is bounded by `BUDGET_BYTES`, whatever the size of the files.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import FileEntry, explain_os_error, hash_file
from enginepress.stores.s3.buffers import Buffers
from enginepress.stores.s3.client import BLOCK, Missing, StoreClient, Stored, Unmet, Unsupported
from enginepress.stores.s3.digests import ALGORITHMS, completing, digest_parameters, empty_md5, etag_of, md5_of
from enginepress.stores.s3.probe import Guarantees
from enginepress.stores.store import Progress

MIB = 1024 * 1024
PART_BYTES = 16 * MIB
MOST_PARTS = 10_000
BUDGET_BYTES = 96 * MIB
AT_ONCE = 8
COPY_PART_BYTES = 256 * MIB
"""Larger copies within the server are made in parts of this size, so that each request is short."""


@dataclass(frozen=True)
class Twin:
    """An object of the store with the same bytes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class Item:
    """One file to be sent.

    Attributes:
        path: where it stands in the repository.
        source: the file, or its content.
        sha256: what it must have, or None.
        twin: an object from which the server can copy it.
    """

    path: str
    source: Path | bytes
    sha256: str | None = None
    twin: Twin | None = None


@dataclass(frozen=True)
class Sent:
    """One file that the server has.

    Attributes:
        etag: what the server must have; "" where that cannot be told, as of a copy.
        moved: bytes that were sent for it.
    """

    entry: FileEntry
    etag: str
    moved: int


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
        sizes = {item.path: _size(item) for item in items}
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
            etag = self._client.put(key, data, digest=digest_parameters(self._guarantees.digest, data, md5=md5))
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
        futures: list[Future[_Part]] = []
        with open(source, "rb", buffering=0) as stream:
            while True:
                buffer = self._buffers.take()
                if self._stop.is_set() or any(f.done() and f.exception() is not None for f in futures):
                    self._buffers.give(buffer)
                    break
                count = _read_into(stream, memoryview(buffer)[: part_bytes(size)])
                if not count:
                    self._buffers.give(buffer)
                    break
                # Hashed before it is handed over: afterwards it may hold another part already.
                digest.update(memoryview(buffer)[:count])
                read += count
                del buffer[count:]
                futures.append(pool.submit(self._part, key, upload, len(futures) + 1, buffer, known))
        sent = [future.result() for future in futures]
        if self._stop.is_set():
            raise _Stopped
        entry = FileEntry(item.path, read, digest.hexdigest())
        if read != size:
            self._client.abort(key, upload)
            raise StoreError(
                "changed its size while it was published", where=str(source), fix="let its writer finish, then run again"
            )
        try:
            check_expected(item, entry)
        except StoreError:
            self._client.abort(key, upload)
            raise
        wanted = _etag_in_parts(sent) if self._guarantees.etag_md5 else ""
        self._complete(key, upload, sent, size, wanted)
        return Sent(entry, wanted, sum(p.moved for p in sent))

    def _part(self, key: str, upload: str, number: int, data: bytearray, known: Mapping[int, tuple[int, str]]) -> _Part:
        # boto3 sends a bytearray as it is; bytes it copies first.
        try:
            if self._stop.is_set():
                raise _Stopped
            there = known.get(number)
            md5 = md5_of(data) if there is not None or self._with_md5 else None
            if there is not None and md5 and there == (len(data), md5.hex()):
                self._tell(len(data))
                return _Part(number, there[1], {}, 0)
            digest = digest_parameters(self._guarantees.digest, data, md5=md5)
            etag = self._client.put_part(key, upload, number, data, digest=digest)
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


def _gone(where: str) -> StoreError:
    return StoreError(
        "the upload in parts was removed while it was under way",
        where=where,
        fix="run again; a lifecycle rule that removes uploads must leave them at least a day",
    )


class _Stopped(Exception):
    """Another file has failed."""


def check_expected(item: Item, entry: FileEntry) -> None:
    if item.sha256 is not None and item.sha256 != entry.sha256:
        raise StoreError(
            f"was changed since it was checked: its sha256 is {entry.sha256}, not {item.sha256}",
            where=str(item.source) if isinstance(item.source, Path) else item.path,
            fix="run again with `--force`; if it happens again, check the disk",
        )


def with_twins(items: Sequence[Item], twins: Mapping[str, Twin], *, least: int) -> list[Item]:
    """Items of at least `least` bytes with the objects that have the same bytes, by sha256.

    Files of which no sha256 is known are hashed if there is an object of their size.
    """
    sizes = {twin.size for twin in twins.values()}

    def with_twin(item: Item) -> Item:
        if isinstance(item.source, bytes) or (size := _size(item)) < least:
            return item
        sha256 = item.sha256 or (hash_file(item.source) if size in sizes else None)
        twin = twins.get(sha256 or "")
        return item if twin is None or twin.size != size else Item(item.path, item.source, sha256, twin)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(with_twin, items))


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


def _read_into(stream: RawIOBase, view: memoryview) -> int:
    """Fills the view, or as much of it as there is."""
    count = 0
    while count < len(view) and (more := stream.readinto(view[count:])):
        count += more
    return count


def _read_whole(path: Path, size: int) -> bytearray:
    """A small file; whether it has changed since it was this large is for its digest to tell."""
    data = bytearray(size)
    with open(path, "rb", buffering=0) as stream:
        del data[_read_into(stream, memoryview(data)) :]
        data += stream.read()
    return data


def _size(item: Item) -> int:
    try:
        return len(item.source) if isinstance(item.source, bytes) else item.source.stat().st_size
    except OSError as error:
        raise explain_os_error(error, "reading what is published", StoreError) from None


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
