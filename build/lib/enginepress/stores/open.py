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
        RecipeError: for a folder that is not an absolute path.
    """
    scheme, _, rest = store.url.partition("://")
    if scheme == "s3":
        return _s3(store, rest)
    path = Path(rest)
    if not path.is_absolute():
        raise RecipeError("is not an absolute path", where=f"stores: {store.url}", fix="write it as file:///folder")
    return FileStore(path, mount=store.mount, url=store.url)


def _s3(store: recipe.Store, rest: str) -> Store:
    from enginepress.s3_access import S3Settings
    from enginepress.stores.s3 import S3Store, S3StoreSettings

    bucket, _, prefix = rest.partition("/")
    settings = S3StoreSettings(
        S3Settings(store.endpoint, store.region, store.path_style, store.ca_bundle),
        checksum=store.checksum,
        single_writer=store.single_writer,
        paranoid=store.paranoid,
    )
    return S3Store(bucket, prefix.strip("/"), settings=settings, url=store.url)
