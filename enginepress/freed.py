"""How much space removing folders really frees, where files share their bytes.

A file with several names (hard links) is freed with the last of them, and so counts only if all its names lie in the folders. Of
files with shared blocks (reflinks) only the blocks that are nobody else's count, as the file system tells (FIEMAP): blocks that
only the removed files share among themselves are left out, so the figure is one that is freed at least.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_FIEMAP = 0xC020660B
_EXTENTS = 256
_HEADER = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_LAST = 0x1
_SHARED = 0x2000


def freed_bytes(folders: Iterable[Path]) -> int:
    """Bytes on the disk that are free when all these folders are gone."""
    names: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], tuple[Path, os.stat_result]] = {}
    for folder in folders:
        for base, _, entries in os.walk(folder):
            for entry in entries:
                path = Path(base, entry)
                try:
                    found = path.lstat()
                except FileNotFoundError:  # somebody else removes it
                    continue
                inode = (found.st_dev, found.st_ino)
                names[inode] += 1
                files[inode] = (path, found)
    return sum(_own_bytes(path, found) for inode, (path, found) in files.items() if names[inode] >= found.st_nlink)


def _own_bytes(path: Path, found: os.stat_result) -> int:
    """What of a file's space nobody else uses."""
    taken = found.st_blocks * 512
    if not stat.S_ISREG(found.st_mode) or not taken:
        return taken
    try:
        return max(0, taken - _shared_bytes(path))
    except OSError:  # a file system that shares no blocks, or does not tell
        return taken


def _shared_bytes(path: Path) -> int:
    shared = start = 0
    with open(path, "rb", buffering=0) as stream:
        while True:
            request = bytearray(_HEADER.pack(start, 2**64 - 1 - start, 0, 0, _EXTENTS, 0) + bytes(_EXTENT.size * _EXTENTS))
            fcntl.ioctl(stream.fileno(), _FIEMAP, request, True)
            count = _HEADER.unpack_from(request)[3]
            if not count:
                return shared
            for index in range(count):
                logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(request, _HEADER.size + index * _EXTENT.size)
                shared += length if flags & _SHARED else 0
                start = logical + length
            if flags & _LAST:
                return shared
