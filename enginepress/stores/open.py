"""The store that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import StoreError
from enginepress.stores.filesystem import FileStore

if TYPE_CHECKING:
    from enginepress.recipe import Store


def open_store(store: Store) -> FileStore:
    """Opens no file yet; a store that does not exist is made by the first publish.

    Raises:
        StoreError: for a kind of store that this version does not have.
    """
    scheme, _, rest = store.url.partition("://")
    if scheme != "file":
        raise StoreError(
            f"stores of the kind {scheme}:// are not in this version of enginepress", where=store.url, fix="use file:///folder"
        )
    path = Path(rest)
    if not path.is_absolute():
        raise StoreError("is not an absolute path", where=store.url, fix="write it as file:///folder")
    return FileStore(path, mount=store.mount, url=store.url)
