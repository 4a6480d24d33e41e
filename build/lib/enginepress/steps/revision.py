"""Which revision a recipe is built from, and which bytes are demanded of it: by its lock, its digests, and what came before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.errors import SourceError, WorkspaceError
from enginepress.lockfile import check_revision, parse_lock
from enginepress.recipe import Recipe
from enginepress.sources import Revision
from enginepress.sources.open import open_source
from enginepress.sources.seen import seen_digests


def revision_of(recipe: Recipe, cache: Path) -> Revision:
    """The locked revision; without a lock, what the source holds now.

    Of a locked hub, NGC or S3 nothing is asked here: what is locked can be fetched by its name, and is verified then. A
    folder has no such names, so it is looked at.

    Raises:
        SourceError: if the source has not what the lock or `source.digests` demands.
    """
    source = recipe.source
    if source.lock is None:
        revision = open_source(source, cache=cache).resolve()
    else:
        lock = parse_lock(source.lock)
        revision = lock.revision
        if source.uri.startswith("file://"):
            revision = open_source(source, cache=cache).resolve()
            check_revision(lock, revision, where=source.uri)
    check_digests(recipe, revision)
    return revision


def demanded_digests(recipe: Recipe) -> dict[str, str]:
    """sha256 by path that the recipe or its lock demands."""
    locked = parse_lock(recipe.source.lock).sha256 if recipe.source.lock is not None else {}
    return {**locked, **recipe.source.digests}


def known_digests(recipe: Recipe, revision: Revision, cache: Path) -> dict[str, str]:
    """sha256 by path of everything that is known of a revision's files, besides what their source publishes."""
    paths = {f.path for f in revision.files}
    known = {**seen_digests(cache, revision), **demanded_digests(recipe)}
    return {path: sha256 for path, sha256 in known.items() if path in paths}


def check_record(recipe: Recipe, record: Mapping[str, Any], *, where: Path) -> None:
    """Whether a checkpoint that lies in the workspace is what the recipe demands now.

    Raises:
        WorkspaceError: naming the file.
    """
    demanded = demanded_digests(recipe)
    for file in record["files"]:
        wanted = demanded.get(file["path"])
        if wanted is not None and wanted != file["sha256"]:
            raise WorkspaceError(
                f"{file['path']} has sha256 {file['sha256']}, the recipe demands {wanted}",
                where=str(where),
                fix="find out which is right; to fetch it again, remove that folder and run again",
            )


def check_digests(recipe: Recipe, revision: Revision) -> None:
    """Raises SourceError, naming the file, unless a revision has what `source.digests` of the recipe demands."""
    files = {f.path: f for f in revision.files}
    for path, wanted in sorted(recipe.source.digests.items()):
        file = files.get(path)
        if file is None:
            raise SourceError(
                f"names {path!r}, which is not among the files that a build needs",
                where="source.digests",
                fix="remove it there; a build takes " + ", ".join(sorted(files)),
            )
        if file.digest.algorithm == "sha256" and file.digest.value != wanted:
            raise SourceError(
                f"{path} has sha256 {file.digest.value}, source.digests demands {wanted}",
                where=recipe.source.uri,
                fix="find out which is right before you change the recipe",
            )
