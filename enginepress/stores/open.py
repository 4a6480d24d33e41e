"""The store that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import RecipeError
from enginepress.stores.filesystem import FileStore
from enginepress.stores.store import Store

if TYPE_CHECKING:
    from enginepress import recipe


def open_store(store: recipe.Store) -> Store:
    """Opens no file yet; a store that does not exist is made by the first publish.

    Raises:
        RecipeError: for a kind of store that this version does not have.
    """
    scheme, _, rest = store.url.partition("://")
    if scheme != "file":
        raise RecipeError(
            f"stores of the kind {scheme}:// are not in this version of enginepress",
            where=f"stores: {store.url}",
            fix="use file:///folder",
        )
    path = Path(rest)
    if not path.is_absolute():
        raise RecipeError("is not an absolute path", where=f"stores: {store.url}", fix="write it as file:///folder")
    return FileStore(path, mount=store.mount, url=store.url)
