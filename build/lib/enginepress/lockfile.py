"""The recipe's lock: which bytes of its source a recipe is built from, whatever the source says later.

    laptop.yaml         source: hf://org/name@main
    laptop.lock.json    {"format": 1, "uri": "hf://org/name@main", "allow_pickle": false, "trust_remote_code": false,
                         "source": "hf://org/name", "id": "<commit>",
                         "files": {"config.json": {"size": 650, "git-sha1": "…", "sha256": "…"},
                                   "model.safetensors": {"size": 988097824, "sha256": "…"}}}

`enginepress lock` writes it, and people commit it beside the recipe. A recipe that has one is built from that revision: a hub
is asked for that commit, NGC for that version, S3 for those versions of its objects, and a folder must still hold those
bytes. Each file must have its sha256. What a source publishes instead of a sha256 is kept as well, since it identifies the
revision: a lock changes nothing about what is up to date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from enginepress.errors import RecipeError, SourceError
from enginepress.files import check_relative, explain_os_error, write_atomic
from enginepress.json_text import parse_json
from enginepress.sources import Algorithm, Digest, RemoteFile, Revision

FORMAT = 1
MAX_BYTES = 10_000_000

_DIGEST = {"sha256": 64, "git-sha1": 40, "md5": 32, "none": 64}


@dataclass(frozen=True)
class Lock:
    """What a lock says.

    Attributes:
        uri: `source.uri` as the recipe has it.
        choices: `allow_pickle` and `trust_remote_code` of the recipe, on which the choice of files depends.
        revision: what the URI meant when it was locked.
        sha256: of every file by path.
    """

    uri: str
    choices: Mapping[str, bool]
    revision: Revision
    sha256: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        files = {f.path: _entry(f, self.sha256[f.path]) for f in self.revision.files}
        head = {"format": FORMAT, "uri": self.uri, **self.choices}
        return {**head, "source": self.revision.source, "id": self.revision.id, "files": files}


def lock_path(recipe: Path) -> Path:
    """Where the lock of a recipe file lies: `laptop.yaml` -> `laptop.lock.json`."""
    return recipe.with_name(f"{recipe.stem}.lock.json")


def write_lock(path: Path, lock: Lock) -> None:
    """Writes a lock so that two versions of it differ in the lines that changed.

    Raises:
        RecipeError: if the recipe's folder cannot be written.
    """
    try:
        write_atomic(path, json.dumps(lock.to_json(), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise explain_os_error(error, "writing the lock", RecipeError, where=str(path)) from None


def read_lock_file(path: Path) -> dict[str, Any] | None:
    """The content of a lock file, or None if there is none. `parse_lock` reads it.

    Raises:
        RecipeError: if it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"is larger than {MAX_BYTES:,} bytes, so it is no lock", where=str(path), fix=_FIX)
        data = parse_json(path.read_bytes(), where=str(path), kind=RecipeError, fix=_FIX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error}", where=str(path), fix=_FIX) from None
    if not isinstance(data, dict):
        raise RecipeError("is no lock", where=str(path), fix=_FIX)
    return data


def parse_lock(data: Mapping[str, Any], *, where: str = "source.lock") -> Lock:
    """The lock that `to_json` wrote.

    Raises:
        RecipeError: if it is none, or of a newer version.
        UnsafePathError: if it names a file outside its folder.
    """
    if data.get("format") != FORMAT:
        raise RecipeError(f"has the format {data.get('format')!r}, this version reads {FORMAT}", where=where, fix=_FIX)
    try:
        files = tuple(_file(path, entry) for path, entry in sorted(data["files"].items()))
        sha256 = {path: _hex(entry["sha256"], "sha256") for path, entry in data["files"].items()}
        choices = {name: data[name] for name in ("allow_pickle", "trust_remote_code")}
        lock = Lock(data["uri"], choices, Revision(data["source"], data["id"], files), sha256)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise RecipeError(f"is no lock: {error or type(error).__name__}", where=where, fix=_FIX) from None
    texts = (lock.uri, lock.revision.source, lock.revision.id)
    if not files or not all(isinstance(t, str) for t in texts) or not all(isinstance(c, bool) for c in choices.values()):
        raise RecipeError("is no lock", where=where, fix=_FIX)
    return lock


def check_revision(lock: Lock, now: Revision, *, where: str) -> None:
    """Raises SourceError, naming the files, unless a source has the bytes that are locked."""
    changes = differences(lock.revision, now)
    if changes:
        raise SourceError(
            "is not what the lock says: "
            + ", ".join(changes[:5])
            + (f" and {len(changes) - 5} more" if len(changes) > 5 else ""),
            where=where,
            fix="put the files back, or take the new ones with `enginepress lock RECIPE`",
        )


def differences(before: Revision, now: Revision) -> list[str]:
    """Which files changed, came or went, in words."""
    old, new = ({f.path: f for f in r.files} for r in (before, now))
    said = []
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            said.append(f"{path} is gone")
        elif path not in old:
            said.append(f"{path} is new")
        elif (old[path].size, old[path].digest) != (new[path].size, new[path].digest):
            said.append(f"{path} has changed")
    return said


_FIX = "write it anew with `enginepress lock RECIPE`, or remove it"


def _entry(file: RemoteFile, sha256: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": file.size, file.digest.algorithm: file.digest.value, "sha256": sha256}
    return {**entry, "version": file.version} if file.version else entry


def _file(path: str, entry: Mapping[str, Any]) -> RemoteFile:
    check_relative(path)
    weaker = [a for a in get_args(Algorithm) if a != "sha256" and a in entry]
    algorithm: Algorithm = weaker[0] if weaker else "sha256"
    size, version = entry["size"], entry.get("version", "")
    if type(size) is not int or size < 0 or not isinstance(version, str):
        raise ValueError(f"{path} has no size")
    return RemoteFile(path, size, Digest(algorithm, _hex(entry[algorithm], algorithm)), version)


def _hex(value: Any, algorithm: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{_DIGEST[algorithm]}}}", value):
        raise ValueError(f"{value!r} is no {algorithm}")
    return value
