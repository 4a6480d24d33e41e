"""What lies in a file store and belongs to nothing that a store keeps.

Files of publishers at work, and what killed ones left, are known: the next publish removes them. Inside a release's
`repository/` it is the manifest that says what belongs there (`Store.verify`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from enginepress.names import CHANNEL_NAME, name_trouble
from enginepress.stores.layout import store_errors

_MODEL_ENTRIES = {"model.json", "index.txt", "releases", "channels", "activations", "history", ".partial", ".locks"}
_RELEASE_ENTRIES = {"manifest.json", "repository", "records"}
_PASSING = re.compile(r"\..+\.[0-9a-f]{8}|\.removed-.*|\.[a-z][a-z0-9-]*-[0-9a-f]{8}|\..+\.new")
"""Names of what is being written or removed."""
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ACTIVATION = re.compile(r"[a-z][a-z0-9-]*-[1-9][0-9]{0,8}-[0-9a-f]{8}")


def store_strays(root: Path) -> list[str]:
    """Entries of the store's own folder that are no model, sorted."""
    with store_errors("reading the store", where=root):
        if not root.exists():
            return []
        return [
            name
            for name in sorted(os.listdir(root))
            if not _PASSING.fullmatch(name) and (name.startswith(".") or not (root / name / "model.json").is_file())
        ]


def model_strays(root: Path) -> list[str]:
    """Entries below a model's folder, relative to it, that no part of a store is called. A folder stands for all in it."""
    with store_errors("reading the store", where=root):
        return sorted(_model_strays(root))


def _model_strays(root: Path) -> Iterator[str]:
    yield from _others(root, "", _MODEL_ENTRIES)
    for name in _names(root / "releases"):
        if not _NUMBER.fullmatch(name):
            yield f"releases/{name}"
        elif (root / "releases" / name).is_dir() and not (root / "releases" / name).is_symlink():
            yield from _others(root, f"releases/{name}", _RELEASE_ENTRIES)
            records = f"releases/{name}/records"
            yield from (f"{records}/{r}" for r in _names(root / records) if not r.endswith(".json"))
    yield from (f"activations/{n}" for n in _names(root / "activations") if not _ACTIVATION.fullmatch(n))
    yield from (f"history/{n}" for n in _names(root / "history") if not n.endswith(".jsonl"))
    for name in _names(root / "channels"):
        if name_trouble(name, CHANNEL_NAME) or not (root / "channels" / name).is_symlink():
            yield f"channels/{name}"


def _others(root: Path, folder: str, known: set[str]) -> Iterator[str]:
    for name in _names(root / folder):
        if name not in known:
            yield f"{folder}/{name}".lstrip("/")


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not _PASSING.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
