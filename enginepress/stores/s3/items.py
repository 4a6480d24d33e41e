"""What is sent to a bucket, and what is known of it before: its digests, and where the server has the same bytes already."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import FileEntry, explain_os_error, hash_file
from enginepress.pieces import Pieces


@dataclass(frozen=True)
class Twin:
    """An object of the store with the same bytes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class Item:
    """One file to be sent.

    Attributes:
        path: where it stands in the repository.
        source: the file, or its content.
        sha256: what it must have, or None.
        twin: an object from which the server can copy it.
        pieces: of a large file, hashed together with it; None if they are not known.
    """

    path: str
    source: Path | bytes
    sha256: str | None = None
    twin: Twin | None = None
    pieces: Pieces | None = None


@dataclass(frozen=True)
class Sent:
    """One file that the server has.

    Attributes:
        etag: what the server must have; "" where that cannot be told, as of a copy.
        moved: bytes that were sent for it.
    """

    entry: FileEntry
    etag: str
    moved: int


def size_of(item: Item) -> int:
    try:
        return len(item.source) if isinstance(item.source, bytes) else item.source.stat().st_size
    except OSError as error:
        raise explain_os_error(error, "reading what is published", StoreError) from None


class Changed(StoreError):
    """The file is not any more what was checked: what was sent of it is of no use."""

    def __init__(self, item: Item, how: str) -> None:
        super().__init__(
            f"was changed since it was checked: {how}",
            where=str(item.source) if isinstance(item.source, Path) else item.path,
            fix="run again with `--force`; if it happens again, check the disk",
        )


def check_expected(item: Item, entry: FileEntry) -> None:
    """Raises Changed if the file has another sha256 than it must have."""
    if item.sha256 is not None and item.sha256 != entry.sha256:
        raise Changed(item, f"its sha256 is {entry.sha256}, not {item.sha256}")


def with_twins(items: Sequence[Item], twins: Mapping[str, Twin], *, least: int) -> list[Item]:
    """Items of at least `least` bytes with the objects that have the same bytes, by sha256.

    Files of which no sha256 is known are hashed if there is an object of their size.
    """
    sizes = {twin.size for twin in twins.values()}

    def with_twin(item: Item) -> Item:
        if isinstance(item.source, bytes) or (size := size_of(item)) < least:
            return item
        sha256 = item.sha256 or (hash_file(item.source) if size in sizes else None)
        twin = twins.get(sha256 or "")
        return item if twin is None or twin.size != size else replace(item, sha256=sha256, twin=twin)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(with_twin, items))
