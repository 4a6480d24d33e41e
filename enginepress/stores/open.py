"""The store that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import RecipeError, UsageError
from enginepress.stores.filesystem import FileStore
from enginepress.stores.store import Store

if TYPE_CHECKING:
    from enginepress import recipe


def open_url(url: str, *, single_writer: bool = False) -> Store:
    """A store that a command was told by its URL, without a recipe's settings.

    Args:
        single_writer: the operator vouches that nobody else writes to it at the same time.

    Raises:
        UsageError: for what is no URL of a store.
    """
    from enginepress.recipe import Store as Settings

    try:
        settings = Settings(url=url)
    except ValueError:
        raise no_place(url) from None
    return open_store(as_single_writer(settings) if single_writer else settings)


def no_place(url: str) -> UsageError:
    fix = "name a folder, as /srv/models or file:///srv/models, or s3://bucket/folder"
    return UsageError(f"'{url}' is no place for a store", fix=fix)


def as_single_writer(settings: recipe.Store) -> recipe.Store:
    """The operator vouches that nobody else writes to it at the same time; only stores on S3 ask for that."""
    return settings.model_copy(update={"single_writer": True}) if settings.url.startswith("s3://") else settings


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
