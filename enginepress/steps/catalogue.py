"""A backup's catalogue: what the store held of a model when the backup was last brought up to date.

It is a record beside the release that was the newest then, and written last. A backup that is under way, or was killed, may
have newer releases without one: the newest catalogue that is there holds until the next one is written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from enginepress.errors import StoreError
from enginepress.registry_entries import entries_of
from enginepress.stores.history import Move, move_of
from enginepress.stores.store import Allotment, Store

CATALOGUE = "backup"
FORMAT = 1


@dataclass(frozen=True)
class Catalogue:
    """What a backup holds of one model."""

    of: str
    at: str
    allotment: Allotment
    releases: dict[int, str]
    channels: dict[str, list[Move]]
    registry: dict[str, Any] | None


def read_catalogue(backup: Store, model: str) -> Catalogue:
    """Raises StoreError if the place is no backup, or its first backup was never finished."""
    found = _newest(backup, model)
    if found is None:
        raise _no_catalogue(backup, model)
    number, record = found
    try:
        if record["format"] != FORMAT:
            raise ValueError(f"it is of format {record['format']}, and this enginepress reads {FORMAT}")
        return Catalogue(
            of=str(record["of"]),
            at=str(record["at"]),
            allotment=Allotment(record["primary"], int(record["last"])),
            releases={int(number): str(digest) for number, digest in record["releases"].items()},
            channels={str(c): _moves(c, moves, record["releases"]) for c, moves in record["channels"].items()},
            registry=entries_of(record["registry"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"the catalogue of {model} is damaged: {error}",
            where=f"{backup.location(model, number)}, record {CATALOGUE}",
            fix="if the store is still there, run `enginepress backup` once more",
        ) from None


def _moves(channel: str, moves: Any, releases: Collection[str]) -> list[Move]:
    found = [move_of(move) for move in moves]
    if not found or str(found[-1].release) not in releases:
        raise ValueError(f"channel {channel} is on no release that is in it")
    return found


def refuse_backup(store: Store, model: str, doing: str, *, beside: Collection[str] = ()) -> None:
    """Refuses what would make a backup something else than a backup.

    Args:
        doing: why not, or what is done instead.
        beside: URLs of the other stores that are meant. Who follows one of them is a store of the same recipe.

    Raises:
        StoreError: naming the store that this is the backup of.
    """
    primary = store.allotment(model).primary
    if primary is None or primary in beside:
        return
    found = _newest(store, model)
    if found is not None and found[1].get("of") == primary:
        raise StoreError(f"is the backup of {primary}; {doing}", where=store.url, fix=f"name that store: {primary}/{model}")


def _newest(backup: Store, model: str) -> tuple[int, dict[str, Any]] | None:
    for number in reversed(backup.numbers(model)):
        if (record := backup.read_record(model, number, CATALOGUE)) is not None:
            return number, record
    return None


def _no_catalogue(backup: Store, model: str) -> StoreError:
    if not backup.numbers(model):
        known = ", ".join(backup.models()) or "none"
        return StoreError(f"holds no backup of '{model}'", where=backup.url, fix=f"there are: {known}")
    unfinished = backup.allotment(model).primary is not None
    return StoreError(
        f"{model} is no {'finished ' if unfinished else ''}backup: there is no catalogue beside its releases",
        where=backup.url,
        fix="run `enginepress backup` once more" if unfinished else "name a place that `enginepress backup` has written",
    )
