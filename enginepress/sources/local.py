"""`file:///folder`: a checkpoint in a folder, identified by the bytes in it.

A folder has no commits, so its revision is the digest of what a build needs. Hashing hundreds of gigabytes takes minutes;
the hashes are kept, each with what `stat` said of its file, and an unchanged folder then costs one `stat` a file.

    cache/local/<sha256 of the folder's path>.json      {"format": 1, "files": {path: [stat, sha256]}}

A symbolic link is followed inside the folder only, with one exception: a snapshot in Hugging Face's cache
(`models--org--name/snapshots/<commit>`) consists of links into the cache's own `blobs` folders, and may be named as it is.
What is fetched is a copy of its own, by reflink where the file system can, and a hard link only on request.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from enginepress.canonical import sha256_hex
from enginepress.errors import SourceError, UnsafePathError
from enginepress.files import CHUNK_BYTES, check_relative, hash_file, write_atomic
from enginepress.sources import Body, Digest, RemoteFile, Revision
from enginepress.sources.selection import Selection, select
from enginepress.sources.transfer.hashes import FileHash
from enginepress.sources.weights import check_weights

CACHE_FORMAT = 1
MAX_READ_BYTES = 64 * 1024 * 1024
SETTLED_SECONDS = 2.0
"""A file changed this recently may change again without its times showing it, so its hash is not kept."""

_FICLONE = 0x40049409
_HASHERS = 4
_HASH_TRIES = 3
Fingerprint = list[int]


class LocalSource:
    """A folder on this machine.

    Args:
        folder: absolute.
        link: take files over by hard link where the file system can. An edit in place then changes both.
        cache: where hashes are kept, or None.
    """

    mismatch = ("was changed after it was resolved", "let whoever writes the folder finish, then run again")

    def __init__(
        self,
        folder: Path,
        *,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        link: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.folder = folder
        self._link = link
        self._choices = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        self._cache_file = cache / "local" / f"{sha256_hex(str(folder))}.json" if cache is not None else None

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    def resolve(self) -> Revision:
        """The folder as it is now. See CheckpointSource.resolve."""
        sizes = self._list()
        selection = select(sizes, read=self._read_contained, where=str(self.folder), **self._choices)
        files = self._hashed(selection)
        revision = Revision(self.uri, "", files, selection.unused)
        return replace(revision, id=revision.digest)

    def sizes(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """Sizes in bytes of the files that a build needs, and paths of the others, by `stat` alone: nothing is read but the
        weights' index."""
        sizes = self._list()
        selection = select(sizes, read=self._read_contained, where=str(self.folder), **self._choices)
        return {path: sizes[path] for path in selection.files}, selection.unused

    def look_at(self, path: str) -> bytes:
        """One small file as it is now, compared with nothing."""
        return self._read_contained(path)

    def read(self, revision: Revision, path: str) -> bytes:
        """One small file, verified. See CheckpointSource.read."""
        file = revision.file(path)
        data = self._read_contained(path)
        hashes = FileHash(file)
        hashes.update(data)
        hashes.check(self.where(revision, file), self.mismatch)
        return data

    @contextmanager
    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> Iterator[Body]:
        """Bytes of one file. See CheckpointSource.open_range."""
        with open(self._readable(file), "rb") as stream:
            stream.seek(start)
            yield Body(start, _blocks(stream, stop - start))

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return str(self.folder / file.path)

    def place(self, revision: Revision, file: RemoteFile, target: Path) -> bool:
        """Shares the file's blocks where the file system can, or links the file on request. See PlacingSource.place."""
        source = self._readable(file)
        if self._link:
            with suppress(OSError):
                os.link(source, target)
                return True
        return _clone(source, target)

    def _readable(self, file: RemoteFile) -> Path:
        source = self.contained(file.path)
        if not os.access(source, os.R_OK):
            raise SourceError("may not be read by the user that runs enginepress", where=str(self.folder / file.path))
        return source

    # The folder -------------------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, int]:
        """Files of the top level with their sizes. Folders are named with `/…`, as nothing in them is ever taken."""
        sizes: dict[str, int] = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name).decode(errors="replace")  # one that is not UTF-8 is of nothing that is needed
                    check_relative(name)
                    if entry.is_dir():
                        sizes[f"{name}/…"] = 0
                    else:
                        sizes[name] = _size(entry)
        except FileNotFoundError:
            raise SourceError("there is no such folder", where=str(self.folder), fix=_nearest(self.folder)) from None
        except NotADirectoryError:
            raise SourceError("is a file, not a folder", where=str(self.folder), fix="name the folder that holds it") from None
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}", where=str(self.folder)) from None
        return sizes

    def contained(self, path: str) -> Path:
        """The real path of a file of this folder.

        Raises:
            UnsafePathError: if a symbolic link leads out of the folder.
            SourceError: if it is no readable file.
        """
        check_relative(path)
        shown = str(self.folder / path)
        try:
            real = (self.folder / path).resolve(strict=True)
            mode = real.stat().st_mode
        except (OSError, RuntimeError):
            raise SourceError("is a broken link, or was removed", where=shown) from None
        if not any(root in real.parents for root in self._roots()):
            raise UnsafePathError(
                f"is a symbolic link that leads out of its folder, to {real}",
                where=shown,
                fix="put the file itself there: `cp -rL` copies a folder without links",
            )
        if not stat.S_ISREG(mode):
            raise SourceError("is no plain file", where=shown)
        return real

    def _roots(self) -> list[Path]:
        """Folders in which a file of this checkpoint may lie."""
        folder = self.folder.resolve()
        repo = folder.parent.parent
        if re.fullmatch(r"[0-9a-f]{40}", folder.name) and folder.parent.name == "snapshots" and repo.name.startswith("models--"):
            return [folder, repo / "blobs", repo.parent / "blobs"]
        return [folder]

    def _read_contained(self, path: str) -> bytes:
        real = self.contained(path)
        try:
            if real.stat().st_size > MAX_READ_BYTES:
                raise SourceError("is too large for what it should be", where=str(self.folder / path))
            return real.read_bytes()
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}", where=str(self.folder / path)) from None

    # Hashes -----------------------------------------------------------------------------------------------------------

    def _hashed(self, selection: Selection) -> tuple[RemoteFile, ...]:
        real = {path: self.contained(path) for path in selection.files}
        seen = {path: _fingerprint(real[path]) for path in real}
        cached = self._cached()
        known = {path: sha256 for path, (mark, sha256) in cached.items() if seen.get(path) == mark}
        missing = [path for path in selection.files if path not in known]
        if missing:
            check_weights(real)  # damaged weights are found before anything is hashed or copied
            started = time.time()
            with ThreadPoolExecutor(_HASHERS) as pool:
                hashed = list(pool.map(lambda path: self._hash(path, real[path], seen[path]), missing))
            for path, (mark, sha256) in zip(missing, hashed, strict=True):
                seen[path], known[path] = mark, sha256
            self._keep({p: (seen[p], known[p]) for p in selection.files if p in cached or _settled(seen[p], started)})
        return tuple(RemoteFile(path, seen[path][0], Digest("sha256", known[path])) for path in selection.files)

    def _hash(self, path: str, real: Path, seen: Fingerprint) -> tuple[Fingerprint, str]:
        """sha256 of a file, with the fingerprint that it had all the while. One that is linked meanwhile, or given to somebody
        else, has another change time and the same content, so it is read again."""
        try:
            for _ in range(_HASH_TRIES):
                sha256, now = hash_file(real), _fingerprint(real)
                if now == seen:
                    return seen, sha256
                if now[:2] != seen[:2]:
                    break
                seen = now
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}", where=str(self.folder / path)) from None
        raise SourceError("is being written to", where=str(self.folder / path), fix="run again when that is done")

    def _cached(self) -> dict[str, tuple[Fingerprint, str]]:
        if self._cache_file is None:
            return {}
        try:
            data: dict[str, Any] = json.loads(self._cache_file.read_bytes())
            if data["format"] != CACHE_FORMAT:
                return {}
            return {path: (list(mark), str(sha256)) for path, (mark, sha256) in data["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _keep(self, files: Mapping[str, tuple[Fingerprint, str]]) -> None:
        if self._cache_file is None:
            return
        try:
            write_atomic(self._cache_file, json.dumps({"format": CACHE_FORMAT, "folder": str(self.folder), "files": files}))
        except OSError:
            pass  # A cache that cannot be written costs hashing again, no more.


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _fingerprint(path: Path) -> Fingerprint:
    """What changes when a file's content does. The change time cannot be set back, as the modification time can."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _settled(mark: Fingerprint, now: float) -> bool:
    return max(mark[1], mark[2]) < (now - SETTLED_SECONDS) * 1e9


def _clone(source: Path, target: Path) -> bool:
    """Shares the source's blocks with a new file, if the file system can (XFS, Btrfs, some NFS)."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            os.fsync(writer.fileno())
            return True
        except OSError:
            target.unlink()
            return False


def _blocks(stream: BinaryIO, count: int) -> Iterator[bytes]:
    while count > 0 and (block := stream.read(min(count, CHUNK_BYTES))):
        count -= len(block)
        yield block


def _nearest(folder: Path) -> str:
    """What to do about a folder that is not there: its likely name, if another lies beside where it should be."""
    try:
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()]
    except OSError:
        beside = []
    if close := difflib.get_close_matches(folder.name, beside, n=1):
        return f"did you mean '{folder.parent / close[0]}'? The recipe's source names it"
    return "correct the recipe's source"
