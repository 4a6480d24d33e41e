"""Files of a new release that an earlier one has already: linked, not copied.

Where the file system can share blocks (XFS, Btrfs, some NFS) the new file is one of its own with the same blocks, and otherwise a
hard link to the earlier one. Where neither works, or the stored file does not look sound, the caller copies.

What a stored file must show, without being read as a whole: it is a real file of the right size, not touched since its release
was finished; a small one has the right digest; of a large one, samples equal the file that would be copied. So a file that
somebody has edited in place does not get into the next release. Bits that rotted between the samples would:
`enginepress verify` reads everything.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.manifest import Manifest
from enginepress.stores.copying import make_read_only
from enginepress.stores.layout import ModelFolder

LOOK_BACK = 8
"""Releases that are searched, newest first, besides those on a channel: a publish must not grow with the store."""

SMALL_BYTES = 1024 * 1024
_SAMPLES = 16
_SAMPLE_BYTES = 64 * 1024
_FICLONE = 0x40049409


@dataclass(frozen=True)
class Stored:
    """A file of an earlier release.

    Attributes:
        finished_ns: when its release was finished, by the clock of the file system.
    """

    path: str
    size: int
    sha256: str
    finished_ns: int


class Unchanged:
    """Looks for files by their digests, reading the manifests of earlier releases only as far as needed, and links them."""

    def __init__(self, folder: ModelFolder, numbers: Iterable[int]) -> None:
        self._folder = folder
        self._numbers = iter(numbers)
        self._known: dict[str, Stored] = {}
        self._real: set[str] = set()
        self._clones = True  # until the file system says that it cannot

    def find(self, sha256: str) -> Stored | None:
        while sha256 not in self._known:
            number = next(self._numbers, None)
            if number is None:
                return None
            for stored in self._files(number):
                self._known.setdefault(stored.sha256, stored)
        return self._known[sha256]

    def link(self, stored: Stored, source: Path, target: str) -> bool | None:
        """Gives `target` the bytes of a stored file without copying them.

        Returns:
            True if it is a new file that has still to be synced, False if it is a hard link, None if neither was possible or the
            stored file is not to be trusted.
        """
        try:
            if (parent := os.path.dirname(stored.path)) not in self._real:
                self._folder.check_real(Path(parent))
                self._real.add(parent)
            handle = os.open(stored.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a writer
            try:
                return self._link(handle, stored, source, target)
            finally:
                os.close(handle)
        except (OSError, StoreError):
            return None

    def _link(self, handle: int, stored: Stored, source: Path, target: str) -> bool | None:
        if not _is_sound(handle, stored, source):
            return None
        if self._clones:
            self._clones = _clone(handle, target)
        if self._clones:
            return True
        os.link(stored.path, target, follow_symlinks=False)
        if not os.path.samestat(os.lstat(target), os.fstat(handle)):  # swapped since it was looked at
            os.unlink(target)
            return None
        return False

    def _files(self, number: int) -> Iterator[Stored]:
        path = self._folder.manifest(number)
        try:
            self._folder.check_real(path)
            manifest = Manifest.from_text(path.read_bytes(), where=str(path))
            finished = path.stat().st_mtime_ns
        except (OSError, StoreError):
            return  # damaged, or just removed: nothing is linked to it
        repository = self._folder.repository(number)
        for entry in manifest.files:
            yield Stored(f"{repository}/{entry.path}", entry.size, entry.sha256, finished)


def newest_first(numbers: list[int], on_channels: Iterable[int]) -> list[int]:
    """The releases to search: the newest, and those on channels."""
    newest = sorted(numbers, reverse=True)[:LOOK_BACK]
    return [*newest, *sorted({*on_channels} & {*numbers} - {*newest}, reverse=True)]


def _is_sound(handle: int, stored: Stored, source: Path) -> bool:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size != stored.size or found.st_mtime_ns > stored.finished_ns:
        return False
    if stored.size <= SMALL_BYTES:
        same = os.stat(source).st_size == stored.size
        return same and hashlib.sha256(os.pread(handle, stored.size + 1, 0)).hexdigest() == stored.sha256
    with open(source, "rb", buffering=0) as other:
        if os.fstat(other.fileno()).st_size != stored.size:
            return False
        last = stored.size - _SAMPLE_BYTES
        return all(
            os.pread(handle, _SAMPLE_BYTES, at) == os.pread(other.fileno(), _SAMPLE_BYTES, at)
            for at in (last * index // (_SAMPLES - 1) for index in range(_SAMPLES))
        )


def _clone(handle: int, target: str) -> bool:
    """A new file with the same blocks."""
    with open(target, "xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, handle)
        except OSError:
            os.unlink(target)
            return False
        make_read_only(writer.fileno())
    return True
