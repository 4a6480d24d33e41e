"""Recipes in folders: of people, of Git-sync, of mounted ConfigMaps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from enginepress.recipe_file import is_recipe


def find_recipes(places: Iterable[Path]) -> list[Path]:
    """Recipe files that are named, and those in folders that are named, each once."""
    found: dict[str, Path] = {}
    for place in places:
        for path in recipes_in(place) if place.is_dir() else [place]:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def recipes_in(folder: Path) -> list[Path]:
    """The recipes of a folder and those under it, each once; files that are no recipes are passed over. Links are followed and
    hidden folders are not entered: a mounted ConfigMap shows each file as a link into a hidden folder, Git-sync its working
    copy.

    A folder that cannot be read is given as if it were a recipe: reading it says why, and the others are not lost.
    """
    found: dict[str, Path] = {}
    entered: set[str] = set()

    def unreadable(error: OSError) -> None:
        # What is gone was taken away while this looked, as Git-sync does with its last working copy.
        if not isinstance(error, FileNotFoundError):
            found[os.path.realpath(error.filename)] = Path(error.filename)

    for base, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(base)) in entered:
            folders.clear()
            continue
        entered.add(real)
        for name in sorted(names):
            path = Path(base, name)
            if not name.startswith(".") and path.suffix in (".yaml", ".yml") and path.is_file() and is_recipe(path):
                found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())
