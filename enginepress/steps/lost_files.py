"""Releases that lost files in their store: told by names and sizes, as often as a run asks whether anything is to do.

In the primary store the next run publishes such a release anew, under a new number: a release is never changed, not even back to
what it was. The new manifest says in whose stead it stands (`instead_of` in `made_with`), and channels that an operator had moved
away from the old release are not moved to the new one. In another store, whose numbers are given, it is for an operator to act.
"""

from __future__ import annotations

from contextlib import suppress

from enginepress.errors import StoreError
from enginepress.recipe import Recipe
from enginepress.steps.promote import promotion_record
from enginepress.stores.store import Store

INSTEAD_OF = "instead_of"


def lost_files(store: Store, model: str, number: int) -> str:
    """What is wrong with a release, in words; empty if every file is there. Raises StoreError for a damaged manifest."""
    lost = store.lost(model, number)
    if not lost:
        return ""
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    return f"release {number} is not whole any more: {lost[0]}{more}"


def refuse_lost(store: Store, model: str, number: int) -> None:
    """Raises StoreError if a store that follows the primary one has lost files of a release."""
    if trouble := lost_files(store, model, number):
        raise StoreError(
            trouble,
            where=store.location(model, number),
            fix="bring its files back from another store or a backup, or remove the release there and run again: "
            "it is copied from the primary store",
        )


def keep_channels(recipe: Recipe, store: Store, number: int) -> None:
    """The release in the stead of one that lost files counts as promoted where an operator had moved a channel away from that."""
    name = recipe.name
    before = store.manifest(name, number).made_with.get(INSTEAD_OF)
    if not isinstance(before, int):
        return
    there = store.channels(name)
    for channel in recipe.channels:
        if there.get(channel) in (before, number):
            continue
        promoted = None
        with suppress(StoreError):  # a record that is damaged tells of no promotion
            promoted = store.read_record(name, before, promotion_record(channel))
        if promoted is not None and store.read_record(name, number, promotion_record(channel)) is None:
            store.write_record(name, number, promotion_record(channel), promoted)
