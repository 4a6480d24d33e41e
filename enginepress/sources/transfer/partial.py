"""A file on its way: its bytes so far, and a record of which they are. Both outlive the process that wrote them.

    <digest>.<owner>.part         the bytes, each at its place; holes where none have come
    <digest>.<owner>.part.json    {"format": 1, "size": 10, "digest": "…", "version": "\\"etag\\"", "spans": [[0, 4]],
                                   "owner": {"kernel": "…", "pid": 12, "start": "993"}}

A record is a hint and no proof: whoever goes on with a partial file reads and hashes it again, and only the digest of the
whole admits it. The record is written after the bytes that it names, so that a killed process loses what came since. Where
no digest was published, nothing would find out that a machine lost power with bytes that were recorded and not on the disk
yet: there they are synced first.

Nobody writes into a file into which somebody else might: that could change bytes after they were hashed. What a process of
this kernel left that is gone, or what was given up in order, is taken over by renaming. Of what another machine left, which
may be asleep, the recorded bytes are copied (by the file system itself where it can).
"""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.files import unfinished, write_unsynced
from enginepress.process import is_gone, kernel, process_start
from enginepress.sources import RemoteFile
from enginepress.sources.transfer.disk import begin_writing, copy_span, write_all
from enginepress.sources.transfer.ranges import Ranges

FORMAT = 1
RECORD_BYTES = 4 * 1024 * 1024
"""So much may arrive between two records. What a killed process loses is this and what is in flight."""

_PART = re.compile(r"\.?([0-9a-f]+\.[0-9a-f]{12}\.part)(\.json|\.json\.new)?")
"""A partial file, its record, or one that was just being written: whoever is killed leaves any of them without the others."""

UNDIGESTED = 4
"""So many times as much where each record has to wait for the disk."""

FLUSH_BYTES = 32 * 1024 * 1024
"""After so much the kernel is told to begin writing to the disk, so that the sync at the end has little left to do."""


@dataclass(frozen=True)
class Record:
    """What is known of a partial file."""

    size: int
    digest: str
    version: str | None
    spans: Ranges
    owner: dict[str, Any] | None

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "size": self.size,
                "digest": self.digest,
                "version": self.version,
                "spans": self.spans.spans,
                "owner": self.owner,
            }
        )

    @staticmethod
    def read(path: Path) -> Record | None:
        """The record in a file, or None if there is none that makes sense."""
        try:
            data = json.loads(path.read_bytes())
            if data["format"] != FORMAT:
                return None
            spans = [(int(a), int(b)) for a, b in data["spans"]]
            record = Record(int(data["size"]), str(data["digest"]), data["version"], Ranges.of(spans), data["owner"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        inside = all(0 <= start < stop <= record.size for start, stop in spans)
        known = isinstance(record.version, (str, type(None))) and isinstance(record.owner, (dict, type(None)))
        return record if inside and known else None

    def may_be_written(self) -> bool:
        """Whether the owner may still be at it."""
        return self.owner is not None and not is_gone(self.owner)

    def is_running_here(self) -> bool:
        return self.owner is not None and self.owner.get("kernel") == kernel() and self.may_be_written()


class PartialStore:
    """The folder with the partial files of a download, listed once: a checkpoint may have thousands of files.

    Args:
        record_bytes: so much may arrive between two records.
    """

    def __init__(self, folder: Path, *, record_bytes: int = RECORD_BYTES) -> None:
        self.folder = folder
        self.record_bytes = record_bytes
        self._left: dict[str, list[Path]] = {}
        for part in sorted({match[1] for entry in os.listdir(folder) if (match := _PART.fullmatch(entry))}):
            self._left.setdefault(part.partition(".")[0], []).append(folder / part)

    def new_path(self, file: RemoteFile) -> Path:
        """A name that nobody else has."""
        return self.folder / f"{file.digest.value}.{uuid.uuid4().hex[:12]}.part"

    def others(self, file: RemoteFile) -> list[tuple[Path, Record | None]]:
        """What was left of the same bytes. A record of None is one that says nothing."""
        found = []
        for path in self._left.get(file.digest.value, ()):
            record = Record.read(_record_path(path))
            found.append((path, record if record is not None and _fits(record, path, file) else None))
        return found

    def bytes_left(self, file: RemoteFile) -> int:
        """How much of a file can be taken over in place, so that no space is needed for it again."""
        found = (record for _, record in self.others(file) if record is not None and not record.may_be_written())
        return max((record.spans.total for record in found), default=0)

    def clean(self, file: RemoteFile) -> None:
        """Removes what was left of a file that is complete now, unless a process of this machine is at it."""
        for path, record in self.others(file):
            if record is None or not record.is_running_here():
                path.unlink(missing_ok=True)
                _remove_record(path)


class Partial:
    """A partial file that this process owns. `spans` says what is there; all methods may be called from any thread.

    Attributes:
        epoch: how often the file began anew; who writes names the one that its bytes are of.
        resumed: whether some of the bytes are from an earlier process, so that they must be hashed again.
    """

    def __init__(self, store: PartialStore, file: RemoteFile) -> None:
        self.path = store.new_path(file)
        self.spans = Ranges()
        self.version: str | None = None
        self._file = file
        self._digested = file.digest.algorithm != "none"
        self._record_bytes = store.record_bytes if self._digested else UNDIGESTED * store.record_bytes
        self._owner: dict[str, Any] | None = {"kernel": kernel(), "pid": os.getpid(), "start": process_start(os.getpid())}
        self._lock = threading.Lock()
        self._recording = threading.Lock()
        self._unrecorded = self._unflushed = self.epoch = 0
        self._closed: list[int] = []
        inherited = _inherit([left for left in store.others(file) if _may_go_on(left[1], file)], self.path)
        if inherited is not None:
            self.spans, self.version = inherited.spans, inherited.version
        self._claimed = self.spans
        self.resumed = bool(self.spans.spans)
        self._handle = -1
        self._record()  # first, so that nobody meets the file without one
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def write(self, offset: int, block: bytes | memoryview, epoch: int) -> int | None:
        """Puts down what nobody has put down yet of a block; returns how many bytes that was, None if the file began anew.

        No byte is written twice: it may have been hashed since.
        """
        with self._lock:
            if epoch != self.epoch:
                return None
            handle = self._handle
            wanted = list(self._claimed.missing(offset, offset + len(block)))
            for start, stop in wanted:
                self._claimed = self._claimed.add(start, stop)
        view = memoryview(block)
        for start, stop in wanted:
            write_all(handle, view[start - offset : stop - offset], start)
        new = sum(stop - start for start, stop in wanted)
        with self._lock:
            if epoch != self.epoch:
                return None
            for start, stop in wanted:
                self.spans = self.spans.add(start, stop)
            self._unrecorded += new
            self._unflushed += new
            record, flush = self._unrecorded >= self._record_bytes, self._unflushed >= FLUSH_BYTES
            if record:
                self._unrecorded = 0
            if flush:
                self._unflushed = 0
        if record:
            self._record()
        if flush:
            begin_writing(handle)
        return new

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._handle, count, offset)

    def forget(self, version: str | None) -> None:
        """Begins anew, with the file's new version: in a new file, since somebody may just be writing into the old one."""
        with self._lock:
            self.path.unlink(missing_ok=True)
            fresh = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._closed.append(self._handle)
            self._handle = fresh
            self.spans = self._claimed = Ranges()
            self.version = version
            self.epoch += 1
        self._record()

    def set_version(self, version: str) -> None:
        self.version = version
        self._record()

    def sync(self) -> None:
        os.fsync(self._handle)

    def give_up(self) -> None:
        """Closes the file and leaves it to whoever comes next; one without a byte, or that somebody removed, is removed."""
        self._owner = None
        if self.spans.spans and os.path.lexists(self.path):
            try:
                self._record()
            except OSError:
                pass  # of a disk that is full, say: the record before this one still stands, and names fewer bytes
            finally:
                self._close()
        else:
            self.discard()

    def discard(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            _remove_record(self.path)
        finally:
            self._close()

    def admit(self, target: Path) -> None:
        """Renames the verified file to its name."""
        os.rename(self.path, target)
        _remove_record(self.path)
        self._close()

    def _close(self) -> None:
        for handle in (*self._closed, self._handle):
            os.close(handle)

    def _record(self) -> None:
        with self._recording:
            with self._lock:
                record = Record(self._file.size, self._file.digest.value, self.version, self.spans, self._owner)
                handle = self._handle
            if not self._digested and handle >= 0 and record.spans.spans:
                os.fdatasync(handle)
            write_unsynced(_record_path(self.path), record.to_json())


# What others left -----------------------------------------------------------------------------------------------------


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _remove_record(path: Path) -> None:
    record = _record_path(path)
    record.unlink(missing_ok=True)
    unfinished(record).unlink(missing_ok=True)


def _fits(record: Record, path: Path, file: RemoteFile) -> bool:
    try:
        long_enough = path.stat().st_size >= (record.spans.spans[-1][1] if record.spans.spans else 0)
    except OSError:
        return False
    return long_enough and (record.size, record.digest) == (file.size, file.digest.value)


def _may_go_on(record: Record | None, file: RemoteFile) -> bool:
    """Where no digest was published, only a version tells that the rest will be of the same file."""
    return record is not None and (file.digest.algorithm != "none" or record.version is not None)


def _inherit(found: Iterable[tuple[Path, Record | None]], mine: Path) -> Record | None:
    """Takes over the fullest partial file, under the name `mine`."""
    usable = [(path, r) for path, r in found if r is not None and r.spans.spans and not r.is_running_here()]
    for path, record in sorted(usable, key=lambda item: -item[1].spans.total):
        try:
            if record.may_be_written():
                if not _copy_spans(path, mine, record.spans):
                    mine.unlink()
                    continue
            else:
                # The record goes first: who has it has the file.
                os.rename(_record_path(path), _record_path(mine))
                os.rename(path, mine)
        except FileNotFoundError:
            continue  # somebody was faster
        return record
    return None


def _copy_spans(source: Path, target: Path, spans: Ranges) -> bool:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        whole = all(copy_span(reader.fileno(), writer.fileno(), start, stop) for start, stop in spans.spans)
        os.fdatasync(writer.fileno())
        return whole
