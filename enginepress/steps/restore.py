"""restore: a backup becomes a store again, and an empty MLflow knows its releases.

Release numbers, manifests, records, signatures, channels and their histories are as they were. MLflow's versions are new
ones, tagged with the release as always, and with the version that they were. What is restored is what the store held when the
backup was last brought up to date.

Until it is through, the store names the backup as the one that gives the numbers: nobody can publish in between, and the next
restore goes on. A store that holds anything else is refused.
"""

from __future__ import annotations

from typing import Any

from enginepress.errors import RegistryError, StoreError
from enginepress.manifest import Manifest
from enginepress.mlflow_access import shown
from enginepress.recipe import Recipe, Registry
from enginepress.recipe import Store as StoreSettings
from enginepress.registry import MlflowRegistry
from enginepress.registry_entries import write_entries
from enginepress.repository.place import place
from enginepress.steps.backup import Copied, copy_release
from enginepress.steps.catalogue import CATALOGUE, Catalogue, read_catalogue
from enginepress.steps.register import RECORD as REGISTRATION
from enginepress.steps.register import register_release
from enginepress.stores.store import Progress, Store
from enginepress.workspace import Workspace


def restore(
    backup: Store,
    store: Store,
    models: list[str] | None = None,
    *,
    workspace: Workspace,
    registry: Registry | None,
    progress: Progress | None = None,
) -> list[Copied]:
    """Restores models into a store and an MLflow that do not have them.

    Args:
        registry: where to register; None to leave MLflow alone. Without a `tracking_uri` the one that the backup names.

    Raises:
        StoreError: no backup, a damaged one, or a store that holds something else.
        RegistryError: MLflow cannot be reached, or holds other releases of the model. The store is asked for first.
    """
    if backup.url == store.url:
        raise StoreError("is the backup itself", where=store.url, fix="name an empty place to restore to")
    if f"{store.url}/".startswith(f"{backup.url}/") or f"{backup.url}/".startswith(f"{store.url}/"):
        raise StoreError(f"lies in {backup.url}, or around it", where=store.url, fix="name a place of its own to restore to")
    chosen = backup.models() if models is None else models
    if not chosen:
        raise StoreError("holds no backup", where=backup.url, fix="name a place that `enginepress backup` has written")
    catalogues = {model: read_catalogue(backup, model) for model in chosen}
    for model, catalogue in catalogues.items():
        _check_store(backup, store, model, catalogue)
    plans = [(m, c, _settings(backup, m, c, registry)) for m, c in catalogues.items()]
    for model, catalogue, settings in plans:
        if settings is not None:
            _check_registry(settings, model, catalogue)
    return [_restore_model(backup, store, m, c, workspace, settings, progress) for m, c, settings in plans]


def _check_store(backup: Store, store: Store, model: str, catalogue: Catalogue) -> None:
    if strays := store.strays():
        raise StoreError(f"holds something that is no model: {strays[0]}", where=store.url, fix="restore into an empty place")
    numbers = store.numbers(model)
    if store.allotment(model).primary == backup.url:
        return  # a restore that was not finished
    same = [n for n in numbers if n in catalogue.releases and store.manifest(model, n).digest == catalogue.releases[n]]
    if numbers and (len(same) < len(numbers) or len(numbers) < len(catalogue.releases)):
        raise StoreError(
            f"holds releases of {model} already: {', '.join(map(str, numbers))}",
            where=store.url,
            fix="restore into an empty store; what is there is left alone",
        )


def _settings(backup: Store, model: str, catalogue: Catalogue, given: Registry | None) -> Registry | None:
    """Where the model is registered: as given, or else where it was."""
    if given is None or catalogue.registry is None:
        return given if given is not None and given.tracking_uri else None
    recipe = _recipe(backup.manifest(model, max(catalogue.releases)))
    uri = given.tracking_uri or recipe.registry.tracking_uri or catalogue.registry["tracking_uri"]
    credentials = given if given.tracking_uri else recipe.registry
    return credentials.model_copy(update={"tracking_uri": uri, "experiment": recipe.registry.experiment})


def _check_registry(settings: Registry, model: str, catalogue: Catalogue) -> None:
    assert settings.tracking_uri is not None
    for version in MlflowRegistry(settings, default_uri=settings.tracking_uri).describe(model):
        if catalogue.releases.get(version.release) != version.manifest_digest:
            raise RegistryError(
                f"version {version.model_version} of {model} there stands for another release {version.release}",
                where=shown(settings.tracking_uri),
                fix="name an empty MLflow with --tracking-uri, or leave it out with --no-registry",
            )


def _restore_model(
    backup: Store,
    store: Store,
    model: str,
    catalogue: Catalogue,
    workspace: Workspace,
    settings: Registry | None,
    progress: Progress | None,
) -> Copied:
    done = Copied(model)
    finished = store.numbers(model) and store.allotment(model).primary != backup.url
    for number, digest in sorted(catalogue.releases.items()):
        manifest = backup.manifest(model, number)
        if manifest.digest != digest:
            raise StoreError(
                f"release {number} of {model} is not the one that was backed up",
                where=backup.location(model, number),
                fix="restore from another backup",
            )
        if copy_release(backup, store, manifest, workspace, primary=backup.url, progress=progress):
            done.copied.append(number)
            done.bytes += manifest.size
        else:
            done.there.append(number)
        if not finished:
            for name, record in backup.records(model, number).items():
                if name not in (CATALOGUE, REGISTRATION) and store.read_record(model, number, name) != record:
                    store.write_record(model, number, name, record)
    for channel, moves in catalogue.channels.items():
        if not finished:
            repository = store.repository(model, moves[-1].release)
            store.restore_channel(model, channel, moves, _placed(repository, moves[-1].release))
        done.channels.append(channel)
    if settings is not None:
        done.registered = _register(store, model, catalogue, settings)
    if not finished:
        store.allot(model, catalogue.allotment)
    return done


def _placed(repository: Any, number: int) -> Any:
    def at(root: str) -> Any:
        assert repository is not None, "only a store that is a folder has activations"
        return place(repository, number, root, side_by_side=True)

    return at


def _register(store: Store, model: str, catalogue: Catalogue, settings: Registry) -> int:
    """Every release, in the order in which they were registered, then what people wrote beside it."""
    assert settings.tracking_uri is not None
    known = {v["release"]: v["version"] for v in (catalogue.registry or {}).get("versions", [])}
    wanted = sorted(
        (n for n in catalogue.releases if catalogue.registry is None or n in known), key=lambda n: (known.get(n, n), n)
    )
    for number in wanted:
        recipe = _recipe(store.manifest(model, number))
        mine = recipe.model_copy(update={"stores": [StoreSettings(url=store.url)], "registry": settings})
        register_release(mine, store, number, default_uri=settings.tracking_uri)
    if catalogue.registry is not None:
        write_entries(settings, settings.tracking_uri, model, catalogue.registry)
    return len(wanted)


def _recipe(manifest: Manifest) -> Recipe:
    from pydantic import ValidationError

    try:
        return Recipe.model_validate(dict(manifest.recipe))
    except ValidationError as error:
        raise StoreError(
            f"release {manifest.release} of {manifest.model} holds a recipe that this version cannot read: {error}",
            fix="restore the store with --no-registry, and register with `enginepress doctor RECIPE --repair`",
        ) from None
