"""What a fetch finds in its target: a killed one is resumed, not repeated."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import FileEntry, explain_os_error, hash_file
from enginepress.manifest import Manifest

PARTIAL = ".fetching"
"""Folder in the target for what is on its way. Gone when the fetch is done."""


def keep_whole(manifest: Manifest, target: Path, progress: Callable[[int], None] | None) -> list[FileEntry]:
    """Files of the release that `target` does not have; wrong ones are removed.

    Raises:
        StoreError: if something is there that is not of the release.
    """
    entries = {entry.path: entry for entry in manifest.files}
    try:
        there = [p for p in target.rglob("*") if p.is_symlink() or p.is_file()] if target.is_dir() else []
        found = {
            relative: path for path in there if not (relative := path.relative_to(target).as_posix()).startswith(f"{PARTIAL}/")
        }
        for relative in sorted(found.keys() - entries.keys()):
            raise StoreError(
                f"is not a file of release {manifest.release} of {manifest.model}",
                where=str(found[relative]),
                fix="name an empty folder, or one into which this release was fetched before",
            )
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            whole = pool.map(lambda relative: _is_whole(found[relative], entries[relative]), found)
            for relative, is_whole in zip(found, list(whole), strict=True):
                if not is_whole:
                    found[relative].unlink()
                    continue
                size = entries.pop(relative).size
                if progress is not None:
                    progress(size)
    except OSError as error:
        raise explain_os_error(error, "fetching a release", StoreError) from None
    return list(entries.values())


def _is_whole(path: Path, entry: FileEntry) -> bool:
    return not path.is_symlink() and path.stat().st_size == entry.size and hash_file(path) == entry.sha256
