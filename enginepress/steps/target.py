"""What an operator names on the command line: a store, a model in a store, or a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.recipe import Recipe
from enginepress.recipe_file import absolute_file_url, is_recipe_file, load_recipe
from enginepress.steps.stored_recipe import stored_recipe
from enginepress.stores.open import as_single_writer, no_place, open_store, open_url
from enginepress.stores.store import Store


@dataclass(frozen=True)
class Target:
    """Stores to look at, and what they should hold.

    Attributes:
        models: those that were named; None for all that are there.
        recipe: that of one named model.
    """

    stores: list[Store]
    models: list[str] | None
    recipe: Recipe | None = None


def named_store(text: str, *, single_writer: bool = False) -> Store:
    """A store by its URL, by the path of its folder, or by a recipe file: its primary store, with the settings that it has there.

    Args:
        single_writer: the operator vouches that nobody else writes to it at the same time.
    """
    if "://" not in text and Path(text).is_file():
        settings = load_recipe(Path(text), need_reference=False).stores[0]
        return open_store(as_single_writer(settings) if single_writer else settings)
    return open_url(store_url(text), single_writer=single_writer)


def store_url(text: str) -> str:
    """Raises UsageError for nothing: `backup STORE "$NOT_SET"` would fill the folder that one happens to stand in."""
    url = text if "://" in text else f"file://{text}"
    place = url.partition("://")[2]
    if not place.strip():
        raise no_place(text)
    return absolute_file_url(url.rstrip("/") if place.strip("/") else url, Path.cwd())


def named_target(text: str) -> Target:
    """STORE, STORE/MODEL or a recipe file.

    Raises:
        RecipeError: for a file that is no recipe.
        StoreError: for a place that is neither a store nor a model in one.
    """
    if is_recipe_file(text):
        recipe = load_recipe(Path(text), need_reference=False)
        return Target([open_store(s) for s in recipe.stores], [recipe.name], recipe)
    url = store_url(text)
    store = named_store(url)
    if store.models():
        return Target([store], None)
    base, _, model = url.rpartition("/")
    base = "file:///" if base == "file://" else base
    if "://" in base and model in named_store(base).models():
        recipe = stored_recipe(url)
        return Target([open_store(recipe.stores[0])], [model], recipe)
    raise StoreError("is no store, and no model in one", where=url, fix="name STORE, STORE/MODEL or a recipe file")
