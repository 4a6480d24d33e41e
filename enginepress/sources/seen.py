"""What came when a file was fetched for the first time: demanded ever after.

Some sources publish less than a sha256: a name and a size (old versions in NGC), an ETag (S3), git's sha1. The sha256 of what
was fetched is kept, and the next time such a file is fetched in this workspace it must have it. A recipe's lock says
the same to every workspace.

    cache/seen/<sha256 of source>.json    {"source": …, "files": {path: {<algorithm>:<published digest>: <sha256>}}}

A file is known by what its source publishes of it, so one that has openly become another is not held against the old one, and
one that has not is compared in every later revision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from enginepress.canonical import json_digest
from enginepress.files import FileEntry, write_atomic
from enginepress.sources import Digest, RemoteFile, Revision


def _known_as(file: RemoteFile) -> str:
    return f"{file.digest.algorithm}:{file.digest.value}"


def _file(cache: Path, revision: Revision) -> Path:
    return cache / "seen" / f"{json_digest([revision.source])}.json"


def _read(path: Path) -> dict[str, dict[str, str]]:
    """What was seen: sha256 by path and by what a file is known as. A damaged file has seen nothing."""
    try:
        files: dict[str, dict[str, str]] = json.loads(path.read_bytes())["files"]
        if all(re.fullmatch(r"[0-9a-f]{64}", sha256) for known in files.values() for sha256 in known.values()):
            return files
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def seen_digests(cache: Path, revision: Revision) -> dict[str, str]:
    """sha256 by path, of those files of a revision that were fetched before and were published as they are now."""
    seen = _read(_file(cache, revision))
    return {f.path: seen[f.path][_known_as(f)] for f in revision.files if _known_as(f) in seen.get(f.path, {})}


def remember_digests(cache: Path, revision: Revision, files: Iterable[FileEntry]) -> None:
    """Keeps what came. Only files that have no published sha256 are worth it."""
    by_path = {f.path: f for f in revision.files if f.digest.algorithm != "sha256"}
    came = {f.path: {_known_as(by_path[f.path]): f.sha256} for f in files if f.path in by_path}
    if not came:
        return
    path = _file(cache, revision)
    seen = _read(path)
    seen |= {name: {**seen.get(name, {}), **known} for name, known in came.items()}
    write_atomic(path, json.dumps({"source": revision.source, "files": seen}, indent=1))


def demanding(revision: Revision, sha256: Mapping[str, str]) -> Revision:
    """The same revision whose files must have these sha256, whatever weaker digest their source publishes.

    For fetching only: a revision is identified by what its source publishes.
    """
    files = (replace(f, digest=Digest("sha256", sha256[f.path])) if f.path in sha256 else f for f in revision.files)
    return replace(revision, files=tuple(files))
