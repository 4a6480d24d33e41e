"""The recipe of a model that is in a store, for operators who have the store at hand but not the recipe file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from enginepress.errors import StoreError, UsageError
from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.recipe import Store as StoreSettings
from enginepress.recipe_file import absolute_file_url
from enginepress.steps.register import registered_at
from enginepress.stores.open import open_store
from enginepress.stores.store import Store


def stored_recipe(url: str) -> Recipe:
    """The recipe of the newest release of STORE/MODEL, with that store as its primary.

    The recipe's other stores are meant, too, if it names this one. A copy, or a store that was restored elsewhere (also to a
    bucket of the same name on another server), stands for itself: whoever tries something there must not move the channels of
    the store that is in use.

    Raises:
        UsageError: if it is no STORE/MODEL.
        StoreError: if the store holds no such model.
    """
    base, _, model = absolute_file_url(url.rstrip("/"), Path.cwd()).rpartition("/")
    try:
        store = open_store(StoreSettings(url=base))
    except ValidationError:
        raise UsageError(
            "is neither a recipe file nor STORE/MODEL",
            where=url,
            fix="name a recipe, or a model in a store, as file:///srv/models/tiny-llama or s3://bucket/folder/tiny-llama",
        ) from None
    return recipe_in(store, model)


def recipe_in(store: Store, model: str) -> Recipe:
    """As `stored_recipe`, of a store that is open already."""
    base = store.url
    numbers = store.numbers(model)
    if not numbers:
        models = store.models()
        if model in models:
            fix = "restore them from a backup with `enginepress restore`, or run its recipe again"
            raise StoreError(f"holds no release of {model} any more", where=base, fix=fix)
        fix = f"there are: {', '.join(models)}" if models else "name STORE/MODEL, as file:///srv/models/tiny-llama"
        raise StoreError(f"holds no model '{model}'", where=base, fix=fix)
    newest = _newest_whole(store, model, numbers)
    try:
        recipe = Recipe.model_validate(newest.recipe)
    except ValidationError as error:
        raise StoreError(f"release {newest.release} holds a recipe that this version cannot read: {error}", where=base) from None
    named = next((s for s in recipe.stores if s.url == base and open_store(s).server == store.server), None)
    settings = named or StoreSettings(url=base)
    others = [s for s in recipe.stores if s.url != base] if named else []
    registry = recipe.registry
    if registry.tracking_uri is None:
        registry = registry.model_copy(update={"tracking_uri": registered_at(store, model, [newest.release])})
    return recipe.model_copy(update={"stores": [settings, *others], "registry": registry})


def _newest_whole(store: Store, model: str, numbers: list[int]) -> Manifest:
    """The newest release whose manifest can be read: a damaged one must not bar the way to the others."""
    first: StoreError | None = None
    for number in reversed(numbers):
        try:
            return store.manifest(model, number)
        except StoreError as error:
            first = first or error
    assert first is not None
    raise first
