"""The manifest: what one release is, file by file, and what it was made from and with.

    releases/7/manifest.json
    {"format": 1, "model": "tiny", "release": 7, "build_key": "…", "content_digest": "…", "created": "2026-11-20T19:30:00Z",
     "files": [{"path": "tiny/7/model.py", "size": 8120, "sha256": "…"}, …],
     "made_from": {"source": "hf://org/name", "revision": "<commit>", "revision_digest": "…"},
     "made_with": {"enginepress": "0.1.0", "builder": "onnxruntime", …},
     "recipe": {…}, "served_by": ["…"], "digest": "…"}

`files` are those of the release as it is stored (placed), relative to `repository/`; `content_digest` is that of the
repository without a number, so that the same content has the same digest under every number. `digest` is the sha256 of the
canonical JSON of all other fields: a manifest edited by hand no longer carries its own digest and is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from enginepress.canonical import json_digest
from enginepress.errors import StoreError, UnsafePathError
from enginepress.files import FileEntry, check_relative

FORMAT = 1

_quoted = json.JSONEncoder(ensure_ascii=False).encode
_HEX64 = re.compile(r"[0-9a-f]{64}")
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
"""How a moment is written (`utc_now`)."""

_RESTORE = "copy the file from another store or a backup; `enginepress doctor TARGET` shows what else differs"


@dataclass(frozen=True)
class Manifest:
    """One release.

    Attributes:
        model: the recipe's name.
        release: the release number.
        build_key: of the build that made it.
        content_digest: over the repository without a number.
        files: the stored repository's files, sorted by path, relative to `repository/`.
        made_from: the checkpoint: `source` (URI), `revision` (its immutable id), `revision_digest` (over its files).
        made_with: versions of what made it: `enginepress`, `builder`, `environment`, … Plain JSON values.
        recipe: the canonical recipe.
        served_by: what can serve it, in words and versions.
        created: UTC, ISO 8601.
    """

    model: str
    release: int
    build_key: str
    content_digest: str
    files: tuple[FileEntry, ...]
    made_from: Mapping[str, str]
    made_with: Mapping[str, Any]
    recipe: Mapping[str, Any]
    served_by: Sequence[str]
    created: str = field(default_factory=lambda: utc_now())
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON, whatever the file's spaces and order of keys."""
        return json_digest(self._fields())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        return {**self._fields(), "digest": self.digest}

    def to_text(self) -> str:
        """The content of `manifest.json`: what `json.dumps` with an indent of 1 writes, in a tenth of its time."""
        fields = self.to_json()
        rest = json.dumps({**fields, "files": []}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        if not fields["files"]:
            return rest
        files = ",\n".join(
            f'  {{\n   "path": {_quoted(e["path"])},\n   "sha256": {_quoted(e["sha256"])},\n   "size": {e["size"]}\n  }}'
            for e in fields["files"]
        )
        # The first is the field: those before it are texts, in which quotes are escaped.
        return rest.replace('"files": []', f'"files": [\n{files}\n ]', 1)

    def _fields(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "model": self.model,
            "release": self.release,
            "build_key": self.build_key,
            "content_digest": self.content_digest,
            "created": self.created,
            "files": [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in sorted(self.files, key=lambda e: e.path)],
            "made_from": dict(self.made_from),
            "made_with": dict(self.made_with),
            "recipe": dict(self.recipe),
            "served_by": list(self.served_by),
        }

    @staticmethod
    def from_json(data: Any, *, where: str) -> Manifest:
        """The manifest that `to_json` described.

        Args:
            where: the file that it was read from, for messages.

        Raises:
            StoreError: for anything else, naming the field.
        """
        fields = _Fields(data, where=where, name="")
        number = fields.integer("format", least=1)
        if number != FORMAT:
            raise StoreError(
                f"is of format {number}, and this enginepress reads format {FORMAT}",
                where=where,
                fix="use the enginepress that wrote it, or a newer one",
            )
        made_from = _Fields(fields.mapping("made_from"), where=where, name="made_from")
        manifest = Manifest(
            model=fields.text("model"),
            release=fields.integer("release", least=1),
            build_key=fields.matching("build_key", _HEX64),
            content_digest=fields.matching("content_digest", _HEX64),
            files=_files(fields.sequence("files"), where=where),
            made_from={**made_from.texts("source", "revision"), "revision_digest": made_from.matching("revision_digest", _HEX64)},
            made_with=fields.mapping("made_with"),
            recipe=fields.mapping("recipe"),
            served_by=tuple(_served_by(fields.sequence("served_by"), where=where)),
            created=fields.matching("created", CREATED),
        )
        digest = fields.matching("digest", _HEX64)
        made_from.nothing_else()
        fields.nothing_else()
        if digest != manifest.digest:
            raise StoreError(
                f"was changed after it was written: its digest is {manifest.digest}, and it says {digest}",
                where=where,
                fix=_RESTORE,
            )
        return manifest

    @staticmethod
    def from_text(text: str | bytes, *, where: str) -> Manifest:
        """The manifest in a file's content.

        Raises:
            StoreError: if it is no manifest, or was changed by hand.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"is damaged: not JSON ({error})", where=where, fix=_RESTORE) from None
        return Manifest.from_json(data, where=where)


def utc_now() -> str:
    """Now, as manifests and histories write it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _files(entries: list[Any], *, where: str) -> tuple[FileEntry, ...]:
    found = [_plain(entry) or _checked(entry, f"files[{index}]", where=where) for index, entry in enumerate(entries)]
    paths = [entry.path for entry in found]
    if paths != sorted(set(paths)):
        raise StoreError("files: is not sorted by path, or names a path twice", where=where, fix=_RESTORE)
    return tuple(found)


def _plain(entry: Any) -> FileEntry | None:
    """The file, if all is as it should be, which is almost always so and must not take long; `_checked` finds what is not."""
    try:
        path, size, sha256 = entry["path"], entry["size"], entry["sha256"]
        plain = len(entry) == 3 and type(size) is int and size >= 0 and _HEX64.fullmatch(sha256)
        return FileEntry(check_relative(path), size, sha256) if plain else None
    except (TypeError, KeyError, AttributeError, UnsafePathError):
        return None


def _checked(entry: Any, name: str, *, where: str) -> FileEntry:
    fields = _Fields(entry, where=where, name=name)
    path = fields.text("path")
    try:
        check_relative(path)
    except UnsafePathError as error:
        raise StoreError(f"{name}.path: {error.where} {error.message}", where=where, fix=_RESTORE) from None
    made = FileEntry(path, fields.integer("size", least=0), fields.matching("sha256", _HEX64))
    fields.nothing_else()
    return made


def _served_by(names: list[Any], *, where: str) -> list[str]:
    for name in names:
        if not isinstance(name, str):
            raise StoreError(f"served_by: {name!r} is not text", where=where, fix=_RESTORE)
    return names


class _Fields:
    """A JSON object whose fields are taken one by one, each with its type."""

    def __init__(self, data: Any, *, where: str, name: str) -> None:
        self._where = where
        self._prefix = f"{name}." if name else ""
        if not isinstance(data, dict):
            raise StoreError(f"{name + ': ' if name else ''}is not a JSON object", where=where, fix=_RESTORE)
        self._left: dict[str, Any] = dict(data)

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise self._wrong(key, "is missing")
        return self._left.pop(key)

    def _wrong(self, key: str, problem: str) -> StoreError:
        return StoreError(f"{self._prefix}{key}: {problem}", where=self._where, fix=_RESTORE)

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, f"{_shown(value)} is not a text")
        return value

    def texts(self, *keys: str) -> dict[str, str]:
        return {key: self.text(key) for key in keys}

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self._wrong(key, f"{_shown(value)} does not have the form {pattern.pattern}")
        return value

    def integer(self, key: str, *, least: int) -> int:
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(key, f"{_shown(value)} is not a whole number of at least {least}")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, f"{_shown(value)} is not an object")
        return value

    def sequence(self, key: str) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list):
            raise self._wrong(key, f"{_shown(value)} is not a list")
        return value

    def nothing_else(self) -> None:
        for key in sorted(self._left):
            raise self._wrong(key, "is not a field of a manifest")


def _shown(value: Any) -> str:
    return repr(value)[:80]
