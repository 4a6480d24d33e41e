"""What the releases of a model are found by, in one small file, so that looking among thousands reads no thousand manifests.

    <store>/<model>/index.json   {"format": 1, "releases": {"7": ["<build key>", "<content digest>"], …}}

A cache: the publisher keeps it, whoever finds it missing or torn does without, and removing it harms nothing. A release never
changes and its number is never given again, so a line stays right as long as the number is there. What is found by it is
read from its manifest, which is the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from enginepress.errors import StoreError
from enginepress.files import write_unsynced
from enginepress.manifest import Manifest
from enginepress.stores.layout import ModelFolder

FORMAT = 1

Keys = tuple[str, str]
"""Build key and content digest."""


def read_index(folder: ModelFolder) -> dict[int, Keys]:
    """The releases that the index knows; none if there is no index, or no sense in it."""
    path = folder.path / "index.json"
    try:
        folder.check_real(path)
        data = json.loads(path.read_bytes())
        if data["format"] != FORMAT:
            return {}
        return {int(number): (str(key), str(content)) for number, (key, content) in data["releases"].items()}
    except (OSError, StoreError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_index(folder: ModelFolder, numbers: Iterable[int], published: Manifest) -> None:
    """Adds a release, and any others that the index lacks; called under the model's lock.

    Not synced: a torn index counts as none.
    """
    known = read_index(folder)
    known[published.release] = (published.build_key, published.content_digest)
    releases = {}
    for number in numbers:
        keys = known.get(number) or _keys(folder, number)
        if keys is not None:
            releases[str(number)] = keys
    write_unsynced(folder.path / "index.json", json.dumps({"format": FORMAT, "releases": releases}, separators=(",", ":")))


def _keys(folder: ModelFolder, number: int) -> Keys | None:
    path = folder.manifest(number)
    try:
        manifest = Manifest.from_text(path.read_bytes(), where=str(path))
    except (OSError, StoreError):  # damaged; readers look at it themselves
        return None
    return (manifest.build_key, manifest.content_digest) if manifest.release == number else None
