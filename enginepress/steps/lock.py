"""lock: what a recipe's source means now, with the sha256 of every file, written beside the recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from enginepress.canonical import sha256_hex
from enginepress.errors import RecipeError, StoreError
from enginepress.lockfile import Lock, differences, lock_path, parse_lock, read_lock_file, write_lock
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe, written_uri
from enginepress.sources import CheckpointSource, Revision
from enginepress.sources.open import open_source
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job
from enginepress.steps.revision import known_digests, revision_of
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace

Say = Callable[[str], None]

LOCK_RECORD = "lock"
"""The record of a release that holds the lock of what it was built from."""


@dataclass(frozen=True)
class Locked:
    """A lock that was written, or was right already.

    Attributes:
        changes: what is different from the lock before, in words; None if there was none.
    """

    path: Path
    lock: Lock
    changes: list[str] | None


def lock_recipe(path: Path, workspace: Workspace, *, say: Say = lambda text: None) -> Locked:
    """Resolves the recipe's source, whatever an older lock says, and writes the new lock.

    Files whose source publishes a sha256 are not fetched. Small ones of which it publishes less are read for their sha256;
    if large ones are like that, the checkpoint is downloaded into the workspace, where the next run finds it.

    Args:
        say: told what takes time.
    """
    recipe = load_recipe(path, need_reference=False, locked=False)
    cache = workspace.path("cache")
    workspace.check_writable()
    revision = revision_of(recipe, cache)
    workspace.write_json(revision.to_json(), "revisions", f"{revision.digest}.json")
    choices = {"allow_pickle": recipe.source.allow_pickle, "trust_remote_code": recipe.source.trust_remote_code}
    uri = written_uri(yaml.safe_load(path.read_text(encoding="utf-8")))
    lock = Lock(uri, choices, _named_as_written(recipe, revision, uri), _digests(recipe, revision, workspace, say))
    target = lock_path(path)
    before = _before(target)
    changes = None if before is None else _changes(before, lock)
    write_lock(target, lock)
    return Locked(target, lock, changes)


def lock_from_release(path: Path, number: int) -> Locked:
    """Writes the lock that lies beside a release of the recipe's primary store: the bytes that it was built from.

    Raises:
        StoreError: if there is no such release, or it has no lock.
    """
    recipe = load_recipe(path, need_reference=False, locked=False)
    store = open_store(recipe.stores[0])
    store.manifest(recipe.name, number)
    record = store.read_record(recipe.name, number, LOCK_RECORD)
    where = f"{store.url}, release {number} of {recipe.name}"
    if record is None:
        raise StoreError("has no lock beside it", where=where, fix="lock what the source has now with `enginepress lock RECIPE`")
    built = parse_lock(record, where=where)
    uri = written_uri(yaml.safe_load(path.read_text(encoding="utf-8")))
    if not uri.startswith("file://") and built.revision.source != open_source(recipe.source, cache=None).uri:
        raise StoreError(f"was built from {built.revision.source}, not from {uri}", where=where, fix="name another release")
    lock = Lock(uri, built.choices, _named_as_written(recipe, built.revision, uri), built.sha256)
    target = lock_path(path)
    before = _before(target)
    write_lock(target, lock)
    return Locked(target, lock, None if before is None else _changes(before, lock))


def lock_of_build(recipe: Recipe, workspace: Workspace, revision: Revision, *, uri: str) -> Lock:
    """The lock of a revision that was built: for a scheduled rebuild, which lays a new lock beside its build.

    Args:
        uri: `source.uri` as the recipe file has it.
    """
    choices = {"allow_pickle": recipe.source.allow_pickle, "trust_remote_code": recipe.source.trust_remote_code}
    sha256 = _digests(recipe, revision, workspace, lambda text: None)
    return Lock(uri, choices, _named_as_written(recipe, revision, uri), sha256)


def _named_as_written(recipe: Recipe, revision: Revision, uri: str) -> Revision:
    """A folder is named as in the recipe, so that recipe, lock and folder can move together. What is not needed is left out."""
    source = uri if recipe.source.uri.startswith("file://") else revision.source
    return Revision(source, revision.id, revision.files)


def _digests(recipe: Recipe, revision: Revision, workspace: Workspace, say: Say) -> dict[str, str]:
    """sha256 of every file by path."""
    known = {f.path: f.digest.value for f in revision.files if f.digest.algorithm == "sha256"}
    known |= {p: s for p, s in known_digests(recipe, revision, workspace.path("cache")).items() if p not in known}
    done = workspace.find("checkpoints", revision.digest)
    missing = [f for f in revision.files if f.path not in known]
    if done is None and any(f.digest.algorithm != "git-sha1" for f in missing):
        say(f"downloading {recipe.source.uri}: its source does not publish the sha256 of every file")
        done = produce_checkpoint(Job(recipe, workspace, "lock"), revision.digest)
    if done is not None:
        return {**known, **{f["path"]: f["sha256"] for f in done.record["files"]}}
    return {**known, **_read(open_source(recipe.source, cache=workspace.path("cache")), revision, [f.path for f in missing])}


def _read(source: CheckpointSource, revision: Revision, paths: list[str]) -> Mapping[str, str]:
    return {path: sha256_hex(source.read(revision, path)) for path in paths}


def _before(target: Path) -> Lock | None:
    """The lock that is there; a broken one is replaced without a word."""
    try:
        data = read_lock_file(target)
        return parse_lock(data) if data is not None else None
    except RecipeError:
        return None


def _changes(before: Lock, now: Lock) -> list[str]:
    said = differences(before.revision, now.revision)
    # Bytes that changed although size and what the source publishes of them stayed the same.
    known = {(f.path, f.size, f.digest) for f in before.revision.files}
    same = [f.path for f in now.revision.files if (f.path, f.size, f.digest) in known]
    said += [f"{path} has another sha256" for path in same if before.sha256[path] != now.sha256[path]]
    if before.revision.id != now.revision.id:
        said.insert(0, f"{before.revision.id[:12]} -> {now.revision.id[:12]}")
    return said
