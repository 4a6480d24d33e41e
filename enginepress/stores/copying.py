"""Copies many files at once, each hashed in the pass that writes it, and makes many files durable at once.

A file system commits its journal once for everything that was written before. So all files are written first, their blocks on the
way to the disk already, and then all are synced side by side; synced one by one, each would wait for a commit of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from enginepress.errors import StoreError
from enginepress.files import FileEntry, sync_file

WORKERS = min(16, 2 * (os.cpu_count() or 1) + 2)
"""Threads. Reading, hashing and writing all let go of the interpreter; more than cores, since some wait for the disk."""

BLOCK_BYTES = 256 * 1024
"""Small enough to stay in the core's cache between reading, hashing and writing; memory is this for each worker."""

_START_WRITING_AFTER = 16 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)

Progress = Callable[[int], None]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Copy:
    """One file to copy.

    Attributes:
        relative: its path in the release's `repository/`.
        source: where it is read.
        target: where it is written; its folder exists, the file does not.
    """

    relative: str
    source: Path
    target: Path


class _BrokenOff(Exception):
    """Another file could not be copied, or whoever asked for it goes."""


def copy_all(copies: Sequence[Copy], progress: Progress | None) -> list[FileEntry]:
    """Copies files side by side, the biggest first, read-only, not yet synced.

    Args:
        progress: called with bytes, by one thread at a time.

    Returns:
        What was written, in the order of `copies`.

    Raises:
        OSError: the first that a file met; what others were doing is broken off.
    """
    stop = threading.Event()
    told = threading.Lock()

    def tell(count: int) -> None:
        if progress is not None:
            with told:
                progress(count)

    failed: list[BaseException] = []

    def one(copy: Copy) -> FileEntry:
        try:
            return _copy(copy, stop, tell)
        except _BrokenOff:
            raise
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    by_size = sorted(copies, key=lambda c: c.source.stat().st_size, reverse=True)
    try:
        done = {entry.path: entry for entry in side_by_side(one, by_size)}
    except _BrokenOff:
        raise failed[0] from None
    except BaseException:
        stop.set()
        raise
    return [done[copy.relative] for copy in copies]


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` done for each item by `WORKERS` threads; by this one, if that is 1."""
    if WORKERS == 1 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(WORKERS, len(items))) as pool:
        return list(pool.map(work, items))


def sync_all(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Makes files and the names in folders durable, all at once: before it is done, nothing that is among them may count."""
    side_by_side(sync_file, [*files, *folders])


def make_read_only(handle: int) -> None:
    """Against accidents only; some file systems have no such thing."""
    try:
        os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) & ~0o222)
    except OSError:
        pass


def _copy(copy: Copy, stop: threading.Event, tell: Progress) -> FileEntry:
    digest = hashlib.sha256()
    size = started = 0
    with open(copy.source, "rb", buffering=0) as reader, open(copy.target, "xb", buffering=0) as writer:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads twice as far ahead
        length = os.fstat(reader.fileno()).st_size
        buffer = memoryview(bytearray(max(1, min(BLOCK_BYTES, length))))
        while count := reader.readinto(buffer):
            if stop.is_set():
                raise _BrokenOff
            digest.update(buffer[:count])
            written = 0
            while written < count:
                written += writer.write(buffer[written:count])
            size += count
            if size - started >= _START_WRITING_AFTER:
                _start_writing(writer.fileno(), started, size - started)
                started = size
            tell(count)
        _start_writing(writer.fileno(), started, size - started)
        make_read_only(writer.fileno())
        kept = os.fstat(writer.fileno()).st_size
    if kept != size:
        raise StoreError(
            f"is {kept} bytes after {size} were written", where=str(copy.target), fix="check the file system of the store"
        )
    return FileEntry(copy.relative, size, digest.hexdigest())


def _start_writing(handle: int, start: int, length: int) -> None:
    """Sends blocks on their way to the disk and does not wait. Only a hint: the sync at the end is what counts."""
    if length and hasattr(_LIBC, "sync_file_range"):
        _LIBC.sync_file_range(handle, ctypes.c_int64(start), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
