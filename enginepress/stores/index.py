"""What the releases of a model are found by, in one small file, so that looking among thousands reads no thousand manifests.

    <store>/<model>/index.txt    enginepress index 1
                                 7 <build key> <content digest>

A cache: the publisher adds a line, whoever finds it missing or torn does without what is not there, and removing it does no harm.
A release never changes and its number is never given again, so a line stays right as long as the number is there. What is found
by it is read from its manifest, which is the truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import unfinished, write_unsynced
from enginepress.manifest import Manifest
from enginepress.stores.layout import ModelFolder

NAME = "index.txt"
_HEAD = "enginepress index 1\n"
_LINE = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")

Keys = tuple[str, str]
"""Build key and content digest."""


def read_index(folder: ModelFolder) -> dict[int, Keys]:
    """The releases that the index knows; none if there is no index, or no sense in it."""
    text = _text(folder)
    if not text.startswith(_HEAD):
        return {}
    return {int(number): (key, content) for number, key, content in _LINE.findall(text, len(_HEAD))}


def write_index(folder: ModelFolder, numbers: Iterable[int], published: Manifest) -> None:
    """Adds a release, and any others that the index lacks; called under a lock. Not synced: torn lines count as none."""
    known = read_index(folder)
    there = set(numbers)
    fresh = {number: keys for number in sorted(there - known.keys()) if (keys := _keys(folder, number, published)) is not None}
    text = _text(folder)
    unfinished(_path(folder)).unlink(missing_ok=True)  # of a writer that was killed; the lock says that nobody writes now
    if known and text.endswith("\n") and len(known) < 2 * len(there) + 100:
        with open(_path(folder), "a", encoding="ascii") as stream:
            stream.write(_lines(fresh))
        return
    kept = {number: keys for number, keys in known.items() if number in there}
    write_unsynced(_path(folder), _HEAD + _lines({**kept, **fresh}))


def _path(folder: ModelFolder) -> Path:
    return folder.path / NAME


def _text(folder: ModelFolder) -> str:
    try:
        folder.check_real(_path(folder))
        return _path(folder).read_text(encoding="ascii", errors="replace")
    except (OSError, StoreError):
        return ""


def _lines(releases: dict[int, Keys]) -> str:
    return "".join(f"{number} {key} {content}\n" for number, (key, content) in sorted(releases.items()))


def _keys(folder: ModelFolder, number: int, published: Manifest) -> Keys | None:
    manifest = published
    if number != published.release:
        path = folder.manifest(number)
        try:
            manifest = Manifest.from_text(path.read_bytes(), where=str(path))
        except (OSError, StoreError):  # damaged; readers look at it themselves
            return None
    return (manifest.build_key, manifest.content_digest) if manifest.release == number else None
