"""Files and folders: contained paths, hashes, atomic writes, what is made durable.

The digest of a folder (`content_digest`) is the sha256 of the canonical JSON of its files' paths, sizes and sha256,
sorted by path. Empty folders, times and owners do not count.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from enginepress.canonical import json_digest
from enginepress.errors import EnginepressError, UnsafePathError, UsageError

CHUNK_BYTES = 8 * 1024 * 1024
_HASH_BYTES = 512 * 1024  # stays in the core's cache between reading and hashing

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system says that has no hard links (SMB, some FUSE mounts), or no more of them."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a folder: POSIX path relative to the folder, size in bytes, sha256 as hex."""

    path: str
    size: int
    sha256: str


def content_digest(entries: Iterable[FileEntry]) -> str:
    """sha256 (hex) over the sorted (path, size, sha256) of all files."""
    return json_digest([[e.path, e.size, e.sha256] for e in sorted(entries, key=lambda e: e.path)])


def contained_path(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused if it could lead out of the folder.

    Names come from servers and from files that strangers wrote: `../../etc/cron.d/x`, `/etc/passwd`, a NUL byte, a
    Windows drive, or a symbolic link inside the folder that points out of it must not be followed.

    Raises:
        UnsafePathError: naming the path and what is wrong with it.
    """
    check_relative(relative)
    target = folder / relative
    root = folder.resolve()
    resolved = target.resolve()
    if resolved != root and root not in resolved.parents:
        raise UnsafePathError(f"leads out of its folder, to {resolved}", where=str(target))
    return target


_NOT_IN_A_PATH = re.compile("[\\\\\x00-\x1f\x7f\ud800-\udfff]")


def check_relative(relative: str) -> str:
    """`relative` itself, if it is a plain relative POSIX path.

    Raises:
        UnsafePathError: if it is empty, absolute, has `..`, `.`, empty or backslash parts, a drive, a control character, or half
            a character: JSON may spell a lone surrogate, which is no text and can be no file's name.
    """
    parts = relative.split("/")
    bad = (
        not {"", ".", ".."}.isdisjoint(parts)  # an absolute path begins with an empty part, and the empty path is one
        or _NOT_IN_A_PATH.search(relative) is not None
        or parts[0][1:2] == ":"
    )
    if bad:
        raise UnsafePathError("is not a plain relative path, so it is not used", where=repr(relative))
    return relative


def walk_files(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all files under `folder`, sorted. Symbolic links to files inside it count as files.

    Raises:
        UnsafePathError: for a symbolic link that leads out of the folder.
    """
    found = []
    for base, folders, names in os.walk(folder, followlinks=False):
        for name in [*names, *(d for d in folders if os.path.islink(os.path.join(base, d)))]:
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                contained_path(folder, relative)
            found.append(relative)
    yield from sorted(found)


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file, read once."""
    digest = hashlib.new(algorithm)
    buffer = memoryview(bytearray(_HASH_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def read_into(stream: RawIOBase, view: memoryview) -> int:
    """Fills the view, or as much of it as there is; returns how much."""
    count = 0
    while count < len(view) and (more := stream.readinto(view[count:])):
        count += more
    return count


def hash_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Every file of a folder, hashed, a file on each core."""
    paths = list(walk_files(folder))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashes = pool.map(lambda path: hash_file(folder / path), paths)
        return tuple(FileEntry(p, (folder / p).stat().st_size, sha256) for p, sha256 in zip(paths, hashes, strict=True))


def make_folders(folder: Path) -> None:
    """Makes a folder and those above it that are missing, each durably: a folder's name is kept in the one above it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # by somebody else just now, who may not have synced it yet
            path.mkdir()
        sync_folder(path.parent)


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for caches. An empty HOME, as a service or a cron job may have, is none: its `~` is the root folder.

    Raises:
        UsageError: if nobody knows where this user is at home.
    """
    if cache := environment.get("XDG_CACHE_HOME"):
        return Path(cache)
    home = environment.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise UsageError(
                "is not set, and this user has no home folder, so there is no place for a workspace",
                where="HOME",
                fix="set HOME, or name a workspace with -w (or ENGINEPRESS_WORKSPACE)",
            ) from None
    return Path(home, ".cache")


def nearest_folder(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def check_writable(folder: Path) -> None:
    """Asks whether something can be made in a folder, or in the nearest one above it that is there. Writes nothing.

    Raises:
        OSError: the one that writing would raise.
    """
    folder = nearest_folder(folder)
    if os.access(folder, os.W_OK | os.X_OK) and folder.is_dir():
        return
    if not folder.is_dir():
        number = errno.ENOTDIR
    else:
        number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    raise OSError(number, os.strerror(number), str(folder))


def write_atomic(path: Path, data: bytes | str, *, make_folder: bool = True, keep_name: bool = True) -> None:
    """Writes a file so that readers see the old or the new content, whole, even if we are killed.

    Args:
        make_folder: False to fail if its folder is not there.
        keep_name: False where a power cut may bring the old content back.
    """
    if make_folder:
        make_folders(path.parent)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(partial, "xb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if keep_name:
        sync_folder(path.parent)


def write_unsynced(path: Path, data: str) -> None:
    """Writes a file so that readers see the old or the new content, whole, even if we are killed; not if the machine is."""
    partial = unfinished(path)
    try:
        partial.write_text(data, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def unfinished(path: Path) -> Path:
    """Where `write_unsynced` writes before it renames."""
    return path.with_name(f".{path.name}.new")


def sync_file(path: Path) -> None:
    """Makes a file's content durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Makes every file and folder under `folder` durable."""
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            if os.path.islink(path):
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(base))


def commit_folder(partial: Path, target: Path) -> bool:
    """Renames a finished, synced folder into place. The first one wins.

    Returns:
        False if `target` is there already; `partial` is left as it was.
    """
    make_folders(target.parent)
    try:
        os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_folder(target.parent)
    return True


def remove_tree(folder: Path) -> None:
    """Removes a folder so that nobody meets it half removed: it is renamed away first."""
    doomed = folder.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def newest_ns(folder: Path) -> int:
    """The latest time of change of anything in a folder; 0 if it is gone."""
    newest = 0
    for base, folders, files in os.walk(folder):
        for name in [*folders, *files, "."]:
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.stat(os.path.join(base, name)).st_mtime_ns)
    return newest


def explain_os_error(error: OSError, doing: str, kind: type[EnginepressError], *, where: str | None = None) -> EnginepressError:
    """An OSError in the words of the person who has to mend it."""
    fixes = {
        errno.EEXIST: "something that is no folder stands there: name another place",
        errno.ENOTDIR: "something that is no folder stands in the way: name another place",
        errno.ENOENT: "nothing can be made there, or it is gone: look at the place, or name another one",
        errno.ENAMETOOLONG: "name a shorter path",
        errno.ENOSPC: "free some space, or name another place",
        errno.EDQUOT: "the quota is used up: free some space, or name another place",
        errno.EACCES: "give the user that runs enginepress the right to write there, or name another place",
        errno.EPERM: "give the user that runs enginepress the right to write there, or name another place",
        errno.EROFS: "the file system is mounted read-only: mount it writable, or name another place",
        errno.ESTALE: "the NFS server no longer knows this file or folder: mount it again there, then run this again",
        errno.EIO: "the disk, or the way to it, has failed: look into the system's log before you write there again",
    }
    place = where or (str(error.filename) if error.filename else None)
    return kind(f"{doing} failed: {error.strerror or error}", where=place, fix=fixes.get(error.errno or 0))
