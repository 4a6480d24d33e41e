"""Which fetched files were hashed and have not been touched since: told by size, time and inode, without reading them.

    verified.json    {"<path>": [size, time of change in ns, inode], …}

What the record does not vouch for (written in place, put there by somebody, copied to another disk) is hashed, once. Bits that
rot on the disk change none of the three.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enginepress.files import FileEntry, hash_file, write_unsynced
from enginepress.json_text import json_value

RECORD = "verified.json"

Marks = tuple[int, int, int]


def vouch(repository: Path, files: Iterable[FileEntry]) -> None:
    """Notes, beside the folder, how these files look now; call it when they have been hashed."""
    _write(repository, {entry.path: _marks(repository / entry.path) for entry in files})


def is_whole(repository: Path, files: Iterable[FileEntry]) -> bool:
    """Whether every file is there with its digest. Those for which the record does not vouch are read.

    Raises:
        OSError: as reading does; a file that is gone is not whole.
    """
    known, wanted = _read(repository), {entry.path: entry for entry in files}
    try:
        marks = {path: _marks(repository / path) for path in wanted}
    except (FileNotFoundError, NotADirectoryError):
        return False
    if any(marks[path][0] != entry.size for path, entry in wanted.items()):
        return False
    unknown = [entry for path, entry in wanted.items() if known.get(path) != marks[path]]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        if not all(pool.map(lambda entry: hash_file(repository / entry.path) == entry.sha256, unknown)):
            return False
    if unknown:
        _write(repository, marks)
    return True


def _marks(path: Path) -> Marks:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _read(repository: Path) -> dict[str, Marks]:
    """Empty if there is no record, or no sense in it: then everything is read."""
    try:
        fields = json_value((repository.parent / RECORD).read_bytes())
        return {str(path): (int(size), int(time), int(inode)) for path, (size, time, inode) in fields.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(repository: Path, marks: dict[str, Marks]) -> None:
    write_unsynced(repository.parent / RECORD, json.dumps(marks, indent=1, sort_keys=True) + "\n")
