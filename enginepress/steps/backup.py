"""backup: a store's releases, with their records, channels, histories and registry entries, in another store.

A backup is a store of the same layout, so everything that looks at stores looks at backups: `releases`, `verify --deep`,
another backup. Two things are different: its `model.json` names the store that it is a backup of as the one that gives the
numbers, so that nobody publishes there, and its highest release carries a record `backup`, the catalogue, written last:

    {"format": 1, "of": "file:///srv/models", "at": "…", "by": "ana", "primary": null, "last": 9,
     "releases": {"7": "<manifest digest>", …},
     "channels": {"production": [{"release": 7, "previous": 6, "at": "…", "who": "ana", "why": "…", …}, …]},
     "registry": {…} or null}

Each release appears whole, verified while it is copied; one that is there is not copied again. So a backup that was killed
is gone on with by the next one, and until that is through, the catalogue before still holds.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enginepress.errors import RegistryError, StoreError
from enginepress.manifest import Manifest, utc_now
from enginepress.mlflow_access import shown
from enginepress.registry_entries import read_entries
from enginepress.repository import Placement
from enginepress.steps.catalogue import CATALOGUE, FORMAT
from enginepress.steps.promote import operator
from enginepress.steps.register import RECORD as REGISTRATION
from enginepress.steps.release_folder import release_folder
from enginepress.steps.stored_recipe import recipe_in
from enginepress.stores.history import Move
from enginepress.stores.store import Progress, Store
from enginepress.workspace import Workspace

DAMAGED = "restore it from another store or a backup, or remove it with `enginepress prune` if nobody needs it"


@dataclass
class Copied:
    """What was done for one model. `left` are releases of the backup that the store has no more."""

    model: str
    copied: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    registered: int | None = None
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def backup(
    store: Store,
    target: Store,
    models: list[str] | None = None,
    *,
    workspace: Workspace,
    registry: bool = True,
    prune: bool = False,
    progress: Progress | None = None,
) -> list[Copied]:
    """Brings a backup up to date.

    Args:
        models: None for all.
        workspace: where releases of a store that is no folder pass through.
        registry: keep MLflow's entries, too.
        prune: remove releases from the backup that the store has no more.

    Raises:
        StoreError: for a target that is something else than a backup of this store, a damaged release, a channel on a release
            that is gone, a full disk.
        RegistryError: if MLflow cannot be reached, or has lost the model. Releases are in the backup then; the catalogue is
            the one before.
    """
    there = store.models()
    if not there:
        # A misspelt path and a volume that is not mounted look like this. Nobody must take it for a backup that was made.
        fix = "is it mounted? Name a store; a model of it is named after TARGET"
        raise StoreError("holds no models, so there is nothing to back up", where=store.url, fix=fix)
    chosen = there if models is None else models
    for model in chosen:
        if not store.numbers(model):
            if model in there:
                fix = "name the models that are to be backed up, as STORE/MODEL; the backup keeps what it has of this one"
                raise StoreError(f"holds no release of {model} any more", where=store.url, fix=fix)
            raise StoreError(
                f"holds no model '{model}'", where=store.url, fix=f"there are: {', '.join(store.models()) or 'none'}"
            )
    check_target(store, target)
    return [_backup_model(store, target, m, workspace, registry, prune, progress) for m in chosen]


def check_target(store: Store, target: Store) -> None:
    """Refuses to back up into something that is not a backup of this store."""
    if target.url == store.url:
        raise StoreError("is the store itself, so it is no place for its backup", where=target.url, fix="name another place")
    if f"{target.url}/".startswith(f"{store.url}/") or f"{store.url}/".startswith(f"{target.url}/"):
        raise StoreError(f"lies in {store.url}, or around it", where=target.url, fix="name a place of its own for the backup")
    if strays := target.strays():
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise StoreError(f"holds something that is no backup: {strays[0]}{more}", where=target.url, fix="name an empty place")
    for model in target.models():
        primary = target.allotment(model).primary
        if primary != store.url:
            what = f"a backup or copy of {primary}" if primary else "a store of its own"
            raise StoreError(
                f"{model} there is {what}, not a backup of {store.url}",
                where=target.url,
                fix="name another place, or the store by the URL that it had when it was first backed up",
            )


def _backup_model(
    store: Store, target: Store, model: str, workspace: Workspace, registry: bool, prune: bool, progress: Progress | None
) -> Copied:
    done = Copied(model)
    # Channels first: what they point to now was published before, so it is among the numbers.
    channels = {channel: _moves(store, model, channel, number) for channel, number in sorted(store.channels(model).items())}
    releases = {}
    numbers = store.numbers(model)
    _check_channels(store, model, channels, numbers)
    for number in numbers:
        manifest = store.manifest(model, number)
        releases[number] = manifest.digest
        if copy_release(store, target, manifest, workspace, primary=store.url, progress=progress):
            done.copied.append(number)
            done.bytes += manifest.size
        else:
            done.there.append(number)
        _copy_records(store, target, model, number)
    entries = _registry_entries(store, model) if registry else None
    allotment = store.allotment(model)
    catalogue = {
        "format": FORMAT,
        "of": store.url,
        "at": utc_now(),
        "by": operator(),
        "primary": allotment.primary,
        "last": allotment.last,
        "releases": {str(number): digest for number, digest in releases.items()},
        "channels": {channel: [asdict(move) for move in moves] for channel, moves in channels.items()},
        "registry": entries,
    }
    target.write_record(model, max(target.numbers(model)), CATALOGUE, catalogue)
    done.left = [n for n in target.numbers(model) if n not in releases]
    if prune:
        # The newest may be among them, and with it the catalogue: it must stand at the highest that stays.
        target.write_record(model, max(releases), CATALOGUE, catalogue)
        for number in done.left:
            target.remove(model, number)
        done.removed, done.left = done.left, []
    done.channels = sorted(channels)
    done.registered = len(entries["versions"]) if entries is not None else None
    return done


def _check_channels(store: Store, model: str, channels: Mapping[str, Sequence[Move]], numbers: Collection[int]) -> None:
    """A catalogue with a channel that leads nowhere would be refused by `restore`, when it is too late."""
    for channel, moves in channels.items():
        if (number := moves[-1].release) not in numbers:
            raise StoreError(
                f"channel {channel} of {model} is on release {number}, which is not in the store, so it could not be restored",
                where=store.url,
                fix=f"point it to a release that is there: `enginepress promote {store.url}/{model} N --channel {channel}`",
            )


def _moves(store: Store, model: str, channel: str, number: int) -> list[Move]:
    """The channel's history, that ends where it is."""
    moves = store.history(model, channel)
    if moves and moves[-1].release == number:
        return moves
    previous = moves[-1].release if moves else None
    name = f"{channel}-{number}-{uuid.uuid4().hex[:8]}"
    return [*moves, Move(number, previous, name, utc_now(), operator(), "no history of this move was kept")]


def _registry_entries(store: Store, model: str) -> dict[str, Any] | None:
    """None if no release was ever registered."""
    if not any(store.read_record(model, number, REGISTRATION) for number in store.numbers(model)):
        return None
    settings = recipe_in(store, model).registry
    if settings.tracking_uri is None:
        return None
    entries = read_entries(settings, settings.tracking_uri, model)
    if entries is None:
        raise RegistryError(
            f"does not know {model}, though {store.url} says that its releases were registered there",
            where=shown(settings.tracking_uri),
            fix="`enginepress doctor RECIPE --repair` registers them again; --no-registry backs up without MLflow's entries",
        )
    return entries


# One release, byte for byte -------------------------------------------------------------------------------------------


def copy_release(
    store: Store, target: Store, manifest: Manifest, workspace: Workspace, *, primary: str, progress: Progress | None
) -> bool:
    """Copies a release as it is, under its own number, unless it is there. Returns whether it did.

    Raises:
        StoreError: the target has another release of that number, or a damaged one; bytes that are not those of the manifest.
    """
    model, number = manifest.model, manifest.release
    text = store.manifest_bytes(model, number)
    if number in target.numbers(model):
        if target.manifest(model, number).digest != manifest.digest or target.manifest_bytes(model, number) != text:
            raise StoreError(
                f"has another release {number} of {model}, which is not that of {store.url}",
                where=target.location(model, number),
                fix="name another place",
            )
        if different := target.verify(model, number, contents=False):
            raise StoreError(
                f"release {number} of {model} is damaged there: {different[0]}",
                where=target.location(model, number),
                fix="remove this release there, and run again: it is copied anew",
            )
        return False
    with _folder(store, model, number, workspace) as folder:
        try:
            target.publish(
                model,
                place=lambda n: Placement(n, {}, {entry.path: folder / entry.path for entry in manifest.files}),
                describe=lambda _number, _files: manifest,
                number=number,
                primary=primary,
                expected={folder / entry.path: entry.sha256 for entry in manifest.files},
                progress=progress,
            )
        except StoreError as error:
            if error.where is None or not Path(error.where).is_relative_to(folder):
                raise
            raise StoreError(error.message, where=error.where, fix=DAMAGED) from None
    if target.manifest_bytes(model, number) != text:
        raise StoreError(
            f"the manifest of release {number} of {model} has other bytes there, so its signature does not hold",
            where=target.location(model, number),
            fix="use the enginepress that published the release",
        )
    return True


def _copy_records(store: Store, target: Store, model: str, number: int) -> None:
    """In the order in which they were written, which says which gate was the last."""
    for name, record in store.records(model, number).items():
        if name != CATALOGUE and target.read_record(model, number, name) != record:
            target.write_record(model, number, name, record)


@contextmanager
def _folder(store: Store, model: str, number: int, workspace: Workspace) -> Iterator[Path]:
    """The release as a folder; a copy that had to be fetched is removed at the end."""
    own = store.repository(model, number)
    if own is not None:
        # Names, sizes and links; bytes are hashed while they are copied.
        if different := store.verify(model, number, contents=False):
            raise StoreError(
                f"release {number} of {model} is damaged: {different[0]}",
                where=store.location(model, number),
                fix=DAMAGED,
            )
        yield own
        return
    fetched = release_folder(store, model, number, workspace)
    yield fetched
    workspace.discard("releases", store.manifest(model, number).digest)
