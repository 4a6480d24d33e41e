"""Checks of a release folder: every file against the manifest, the content digest, the release number.

<release>/manifest.json     files (path, size, sha256; relative to repository/), content_digest, release
<release>/repository/       the models
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enginepress.errors import EnginepressError
from enginepress.files import FileEntry, check_relative, hash_file, walk_files
from enginepress.repository.findings import Finding, error, printable
from enginepress.repository.inventory import Repository, read_regular
from enginepress.repository.place import content_digest_of

MANIFEST = "manifest.json"
REPOSITORY = "repository"

_MAX_BYTES = 100_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESTORE = "restore the release from another store or a backup"


def is_release(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / REPOSITORY).is_dir()


def release_number(release: Path) -> int | None:
    """What the manifest says, or None if it cannot be read."""
    manifest = _read(release)
    number = None if manifest is None else manifest.get("release")
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def check_release(release: Path, repository: Repository) -> Iterator[Finding]:
    """The files of a release against its manifest. Reads every byte."""
    manifest = _read(release)
    if manifest is None:
        yield error(None, MANIFEST, "is not a readable JSON mapping", _RESTORE)
        return
    number = release_number(release)
    if number is None or number < 1:
        yield error(None, MANIFEST, f"release is {manifest.get('release')!r}, not a number from 1 up", _RESTORE)
    elif repository.models and repository.version != number:
        found = sorted({v for model in repository.models.values() for v in model.versions})
        yield error(None, MANIFEST, f"release is {number}, but the version folders are {', '.join(map(str, found)) or 'missing'}")
    listed = _entries(manifest)
    if listed is None:
        yield error(None, MANIFEST, "files is not a list of path, size and sha256", _RESTORE)
        return
    root = release / REPOSITORY
    sound: dict[str, FileEntry] = {}
    for path, entry in listed.items():
        problem = _compare(root, entry)
        if problem is None:
            sound[path] = entry
        else:
            yield error(path.split("/")[0], printable(f"{REPOSITORY}/{path}"), problem, _RESTORE)
    try:
        present = set(walk_files(root))
    except (EnginepressError, OSError) as problem:
        yield error(None, REPOSITORY, f"cannot be listed: {problem}")
        return
    for path in sorted(present - set(listed)):
        yield error(
            path.split("/")[0], printable(f"{REPOSITORY}/{path}"), "is not in the manifest", "remove it; a release never changes"
        )
    yield from _check_digest(manifest, root, sound, whole=len(sound) == len(listed) and present == set(listed))


def _check_digest(manifest: dict[str, Any], root: Path, sound: dict[str, FileEntry], *, whole: bool) -> Iterator[Finding]:
    claimed = manifest.get("content_digest")
    if not isinstance(claimed, str) or not _SHA256.fullmatch(claimed):
        yield error(None, MANIFEST, f"content_digest is {claimed!r}, not a sha256", _RESTORE)
        return
    if not whole:
        return
    try:
        actual = content_digest_of(root, known=sound)
    except EnginepressError as problem:
        yield error(None, REPOSITORY, f"its content digest cannot be computed: {problem}")
        return
    if actual != claimed:
        yield error(None, MANIFEST, f"content_digest is {claimed[:12]}…, but the repository's is {actual[:12]}…", _RESTORE)


def _read(release: Path) -> dict[str, Any] | None:
    content = read_regular(release / MANIFEST, _MAX_BYTES)
    try:
        value = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _entries(manifest: dict[str, Any]) -> dict[str, FileEntry] | None:
    rows = manifest.get("files")
    if not isinstance(rows, list):
        return None
    entries = {}
    for row in rows:
        match row:
            case {"path": str(path), "size": int(size), "sha256": str(digest)}:
                entries[path] = FileEntry(path, size, digest)
            case _:
                return None
    return entries


def _compare(root: Path, entry: FileEntry) -> str | None:
    """What is wrong with one file, or None."""
    try:
        path = root / check_relative(entry.path)
        if not path.is_file():
            return "is in the manifest, but not there"
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes, but the manifest says {entry.size}"
        digest = hash_file(path)
    except EnginepressError as problem:
        return f"the manifest's path {problem.message}"
    except OSError as problem:
        return f"cannot be read: {problem.strerror}"
    return None if digest == entry.sha256 else f"has other bytes than published: sha256 {digest[:12]}…, not {entry.sha256[:12]}…"
