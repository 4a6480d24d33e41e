"""What came when a file was fetched for the first time: demanded ever after.

Some sources publish less than a sha256: a name and a size (old versions in NGC), an ETag (S3), git's sha1. The sha256 of what
was fetched is kept, and the next time such a file is fetched in this workspace it must have it. A recipe's lock says
the same to every workspace.

    cache/seen/<sha256 of source and id>.json    {"source": …, "id": …, "files": {path: {"known_as": …, "sha256": …}}}

`known_as` is the published digest, so a file that has openly become another one is not held against the old one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginepress.canonical import json_digest
from enginepress.files import FileEntry, write_atomic
from enginepress.sources import Digest, RemoteFile, Revision


def _known_as(file: RemoteFile) -> str:
    return f"{file.digest.algorithm}:{file.digest.value}"


def _file(cache: Path, revision: Revision) -> Path:
    return cache / "seen" / f"{json_digest([revision.source, revision.id])}.json"


def seen_digests(cache: Path, revision: Revision) -> dict[str, str]:
    """sha256 by path, of those files of a revision that were fetched before and were published as they are now."""
    try:
        data: dict[str, Any] = json.loads(_file(cache, revision).read_bytes())["files"]
        return {
            f.path: data[f.path]["sha256"]
            for f in revision.files
            if f.path in data
            and data[f.path]["known_as"] == _known_as(f)
            and re.fullmatch(r"[0-9a-f]{64}", data[f.path]["sha256"])
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remember_digests(cache: Path, revision: Revision, files: Iterable[FileEntry]) -> None:
    """Keeps what came. Only files that have no published sha256 are worth it."""
    by_path = {f.path: f for f in revision.files if f.digest.algorithm != "sha256"}
    came = {f.path: {"known_as": _known_as(by_path[f.path]), "sha256": f.sha256} for f in files if f.path in by_path}
    if not came:
        return
    path = _file(cache, revision)
    try:
        before = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    write_atomic(path, json.dumps({"source": revision.source, "id": revision.id, "files": {**before, **came}}, indent=1))


def demanding(revision: Revision, sha256: Mapping[str, str]) -> Revision:
    """The same revision whose files must have these sha256, whatever weaker digest their source publishes.

    For fetching only: a revision is identified by what its source publishes.
    """
    files = (replace(f, digest=Digest("sha256", sha256[f.path])) if f.path in sha256 else f for f in revision.files)
    return replace(revision, files=tuple(files))
