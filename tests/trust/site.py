"""A site with everything that a backup must bring back: releases, records, channels with histories, signatures, an MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.files import FileEntry
from enginepress.manifest import Manifest
from enginepress.mlflow_access import session
from enginepress.recipe import Recipe, Registry
from enginepress.registry import MlflowRegistry
from enginepress.repository.place import content_digest_of, place
from enginepress.steps.promote import activate
from enginepress.steps.register import register_release
from enginepress.stores.filesystem import FileStore
from enginepress.stores.store import Store
from tests.stores.parts import MODEL, key, make_source


@dataclass(frozen=True)
class Site:
    """`recipe` names the store and the registry."""

    recipe: Recipe
    store: FileStore

    @property
    def uri(self) -> str:
        assert self.recipe.registry.tracking_uri is not None
        return self.recipe.registry.tracking_uri


def recipe_for(store: FileStore, uri: str, **changes: Any) -> Recipe:
    fields = {"name": MODEL, "source": "file:///checkpoints/tiny", "stores": [store.url], "registry": {"tracking_uri": uri}}
    return Recipe.model_validate({**fields, **changes})


def publish_release(store: Store, recipe: Recipe, folder: Path, weights: bytes) -> Manifest:
    """A small release, as the publish step makes one."""
    source = make_source(folder, weights=weights)
    content = content_digest_of(source)

    def describe(number: int, files: tuple[FileEntry, ...]) -> Manifest:
        return Manifest(
            model=MODEL,
            release=number,
            build_key=key(weights.hex()),
            content_digest=content,
            files=files,
            made_from={"source": "file:///checkpoints/tiny", "revision": "abc", "revision_digest": key("revision")},
            made_with={"enginepress": "0.1.0", "builder": "onnxruntime", "gate": "served"},
            recipe=recipe.canonical(),
            served_by=["triton"],
        )

    return store.publish(MODEL, place=lambda n: place(source, n, None), describe=describe)


def make_site(folder: Path, *, releases: int = 3, uri: str | None = None, named: str | None = None) -> Site:
    """Releases 1 to N, the channel moved to each of them and back once. With `uri` all are registered, in the other order;
    `named` is where they say that they are."""
    store = FileStore(folder / "store")
    recipe = recipe_for(store, named or uri or f"sqlite:///{folder}/mlflow.db")
    for number in range(1, releases + 1):
        publish_release(store, recipe, folder / f"source-{number}", b"weights %d" % number)
        if named is not None:
            store.write_record(MODEL, number, "registration", {"tracking_uri": named, "model_version": number})
        store.write_record(MODEL, number, f"promotion-{number}", {"who": "ana"})
        activate(store, MODEL, "production", number, who="ana", why=f"release {number} is better")
    activate(store, MODEL, "production", releases - 1, who="bob", why="it was not", back=True)
    activate(store, MODEL, "candidate", releases, who="ana", why="first move")
    if uri is not None:
        for number in range(releases, 0, -1):
            register_release(recipe, store, number, default_uri=uri)
        with session(uri, Registry(), doing="writing beside it") as client:
            client.update_registered_model(MODEL, "the small one")
            client.set_registered_model_tag(MODEL, "team", "search")
            client.set_model_version_tag(MODEL, "1", "approved_by", "legal")
            client.update_model_version(MODEL, "1", "fast but proud")
            client.set_registered_model_alias(MODEL, "shadow", "2")
    return Site(recipe, store)


def registered(uri: str) -> dict[int, tuple[str, ...]]:
    """Release -> aliases, as MLflow has them."""
    return {v.release: v.aliases for v in MlflowRegistry(Registry(tracking_uri=uri), default_uri=uri).describe(MODEL)}
