"""publish: the gated repository becomes an immutable, numbered release in every store of the recipe.

The primary store allots the number; the others take the same or refuse. What is published already is not published again:
the same content under the same build key is the same release, unless it has lost files in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginepress import __version__
from enginepress.engines import get_builder
from enginepress.errors import GateError
from enginepress.files import FileEntry
from enginepress.manifest import Manifest
from enginepress.pieces import Pieces, from_record
from enginepress.repository.place import place
from enginepress.sources import Revision
from enginepress.steps.assemble import produce_repository
from enginepress.steps.job import Job, Plan
from enginepress.steps.lock import LOCK_RECORD, lock_of_build
from enginepress.steps.lost_files import INSTEAD_OF, keep_channels, refuse_lost
from enginepress.steps.meter import Meter
from enginepress.steps.release_folder import release_folder
from enginepress.steps.signing import sign_where_wanted
from enginepress.steps.verify import checks_record, passed_attempt
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Output


def publish(job: Job, plan: Plan) -> dict[str, Any]:
    """Raises StoreError for a store that cannot take the release, GateError if it was not gated."""
    recipe = job.recipe
    primary, *others = (open_store(s) for s in recipe.stores)
    number = plan.release or _publish_primary(job, plan, primary).release
    keep_channels(recipe, primary, number)
    _lay_lock(job, plan, primary, number)
    attempt = passed_attempt(job, plan)
    if attempt is not None:
        primary.write_record(recipe.name, number, checks_record(plan), attempt.report.to_json())
    for store in others:
        _publish_other(job, plan, primary, store, number)
    signed = sign_where_wanted(recipe, [primary, *others], number)
    return {"release": number, "stores": [s.url for s in (primary, *others)], **({"signed": True} if signed else {})}


def _publish_primary(job: Job, plan: Plan, store: Store) -> Manifest:
    name = job.recipe.name
    repository = produce_repository(job, plan)
    content = repository.record["content_digest"]
    if passed_attempt(job, plan) is None:
        raise GateError("was not gated by these checks, so it is not published", where=str(repository.folder))
    known = store.find_content(name, content)
    instead_of = 0
    if known is not None and known.build_key == plan.build_key:
        if not store.lost(name, known.release):
            return known
        instead_of = known.release

    def describe(number: int, files: tuple[FileEntry, ...]) -> Manifest:
        return new_manifest(job, plan, number, files, content, instead_of=instead_of)

    expected, pieces = _hashed_before(repository)
    return store.publish(
        name,
        place=lambda n: place(repository.folder, n, None),
        describe=describe,
        expected=expected,
        pieces=pieces,
        progress=_progress(job, sum(e["size"] for e in repository.record["files"])),
    )


def _hashed_before(repository: Output) -> tuple[dict[Path, str], dict[Path, Pieces]]:
    """sha256 of the files that were assembled, and of the pieces of the large ones."""
    expected = {repository.folder / e["path"]: e["sha256"] for e in repository.record["files"]}
    pieces = from_record(repository.record.get("pieces", {}))
    return expected, {repository.folder / path: found for path, found in pieces.items()}


def _publish_other(job: Job, plan: Plan, primary: Store, store: Store, number: int) -> None:
    """The same release, from the primary store, byte for byte."""
    name = job.recipe.name
    manifest = primary.manifest(name, number)
    if number in store.numbers(name) and store.manifest(name, number).content_digest == manifest.content_digest:
        refuse_lost(store, name, number)
        return
    repository, expected, pieces = _near(job, plan, primary, manifest)
    store.publish(
        name,
        place=lambda n: place(repository, n, None),
        describe=lambda _n, _files: manifest,
        number=number,
        primary=primary.url,
        expected=expected,
        pieces=pieces,
        progress=_progress(job, manifest.size),
    )


def _lay_lock(job: Job, plan: Plan, primary: Store, number: int) -> None:
    """Keeps the lock of what was built beside the release: a recipe that follows a branch can be built again as it was."""
    recipe, workspace = job.recipe, job.workspace
    revision = workspace.read_json("revisions", f"{plan.revision}.json")
    if revision is None or workspace.find("checkpoints", plan.revision) is None:
        return  # an earlier run built it, in another workspace
    if primary.read_record(recipe.name, number, LOCK_RECORD) is None:
        lock = lock_of_build(recipe, workspace, Revision.from_json(revision), uri=recipe.source.uri)
        primary.write_record(recipe.name, number, LOCK_RECORD, lock.to_json())


def _near(job: Job, plan: Plan, primary: Store, manifest: Manifest) -> tuple[Path, dict[Path, str], dict[Path, Pieces]]:
    """The release as a folder on this machine, what was just built or else the primary store's own; what is known of its files.

    That the bytes are those of the manifest is checked while they are copied.
    """
    built = job.workspace.find("repositories", plan.build_key)
    if built is not None and built.record["content_digest"] == manifest.content_digest:
        return built.folder, *_hashed_before(built)
    folder = release_folder(primary, manifest.model, manifest.release, job.workspace)
    return folder, {folder / e.path: e.sha256 for e in manifest.files}, {}


def new_manifest(
    job: Job, plan: Plan, number: int, files: tuple[FileEntry, ...], content_digest: str, *, instead_of: int = 0
) -> Manifest:
    """As the recipe and the plan say.

    Args:
        instead_of: the release with the same content that has lost files (`steps.lost_files`).
    """
    return Manifest(
        model=job.recipe.name,
        release=number,
        build_key=plan.build_key,
        content_digest=content_digest,
        files=files,
        made_from={"source": job.recipe.source.uri, "revision": plan.revision_id, "revision_digest": plan.revision},
        made_with={
            "enginepress": __version__,
            "builder": job.recipe.engine.builder,
            "environment": dict(plan.inputs["environment"]),
            "gate": "served" if job.recipe.checks.served else "unserved",
            **({INSTEAD_OF: instead_of} if instead_of else {}),
        },
        recipe=job.recipe.canonical(),
        served_by=get_builder(job.recipe.engine.builder).served_by(job.recipe),
    )


def _progress(job: Job, total: int) -> Callable[[int], None]:
    done, last, meter = 0, 0.0, Meter(total)

    def progress(count: int) -> None:
        nonlocal done, last
        done += count
        meter.note("", done)
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            job.note_progress("publish", str(meter))

    return progress
