"""Checks of a release folder: every file against the manifest, the content digest, the release number.

<release>/manifest.json     what was published, file by file (enginepress.manifest)
<release>/repository/       the models
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from enginepress.errors import EnginepressError, StoreError
from enginepress.files import FileEntry, check_relative, hash_file, walk_files
from enginepress.manifest import Manifest
from enginepress.repository.findings import Finding, error
from enginepress.repository.inventory import Repository, read_regular
from enginepress.repository.place import content_digest_of

MANIFEST = "manifest.json"
REPOSITORY = "repository"

_MAX_BYTES = 100_000_000
_RESTORE = "restore the release from another store or a backup"


def is_release(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / REPOSITORY).is_dir()


def read_manifest(release: Path) -> Manifest:
    """The release's manifest.

    Raises:
        StoreError: if it cannot be read, is no manifest, or was changed by hand.
    """
    content = read_regular(release / MANIFEST, _MAX_BYTES)
    if content is None:
        raise StoreError("cannot be read", where=MANIFEST, fix="check the file's rights")
    return Manifest.from_text(content, where=MANIFEST)


def check_release(release: Path, repository: Repository, manifest: Manifest) -> Iterator[Finding]:
    """The files of a release against its manifest. Reads every byte."""
    if repository.models and repository.version != manifest.release:
        found = sorted({v for model in repository.models.values() for v in model.versions})
        folders = ", ".join(map(str, found)) or "missing"
        yield error(None, MANIFEST, f"release is {manifest.release}, but the version folders are {folders}", _RESTORE)
    root = release / REPOSITORY
    sound: dict[str, FileEntry] = {}
    for entry in manifest.files:
        problem = _compare(root, entry)
        if problem is None:
            sound[entry.path] = entry
        else:
            yield error(entry.path.split("/")[0], f"{REPOSITORY}/{entry.path}", problem, _RESTORE)
    try:
        present = set(walk_files(root))
    except (EnginepressError, OSError) as failure:
        yield error(None, REPOSITORY, f"cannot be listed: {failure}")
        return
    listed = {entry.path for entry in manifest.files}
    for path in sorted(present - listed):
        file = f"{REPOSITORY}/{path}"
        yield error(path.split("/")[0], file, "is not in the manifest", "remove it; a release never changes")
    if set(sound) == listed == present:
        yield from _check_digest(manifest, root, sound)


def _check_digest(manifest: Manifest, root: Path, sound: dict[str, FileEntry]) -> Iterator[Finding]:
    try:
        actual = content_digest_of(root, known=sound)
    except EnginepressError as failure:
        yield error(None, REPOSITORY, f"its content digest cannot be computed: {failure}")
        return
    if actual != manifest.content_digest:
        message = f"content_digest is {manifest.content_digest[:12]}…, but the repository's is {actual[:12]}…"
        yield error(None, MANIFEST, message, _RESTORE)


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
