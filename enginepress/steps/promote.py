"""promote: channels of the recipe are moved to the release, in every store and in the registry.

A channel is moved for a release once, and the release keeps a record of it. So a rebuild that finds nothing to do never
undoes what an operator decided: after a rollback the channel stays where the operator put it.
"""

from __future__ import annotations

import difflib
import getpass
import os
from types import EllipsisType
from typing import Any

from enginepress.errors import RegistryError, StoreError, UsageError
from enginepress.names import reserved_channel
from enginepress.recipe import UNSERVED_CHANNEL, Recipe
from enginepress.registry import MlflowRegistry
from enginepress.repository import Placement
from enginepress.repository.place import place
from enginepress.signing import Trust
from enginepress.steps.catalogue import refuse_backup
from enginepress.steps.job import Job, Plan
from enginepress.steps.readers_view import view_troubles
from enginepress.steps.register import default_tracking_uri, published_release, registered_at
from enginepress.steps.signing import require_signature, trust_of
from enginepress.stores.layout import check_channel
from enginepress.stores.open import open_store
from enginepress.stores.store import Store


def promote(job: Job, plan: Plan) -> dict[str, Any]:
    recipe = job.recipe
    primary = open_store(recipe.stores[0])
    number = published_release(primary, recipe.name, plan)
    who, why = operator(), f"run {job.run}"
    moved = []
    for store, channel in unmoved(recipe, number):
        if store.url == primary.url:
            move_channel(recipe, channel, number, who=who, why=why, default_uri=default_tracking_uri(job.workspace))
            moved.append(channel)
        elif store.channel(recipe.name, channel) != number:
            require_signature(store, recipe.name, number, trust_of(recipe))
            activate(store, recipe.name, channel, number, who=who, why=why)
    return {"release": number, "moved": moved}


def unmoved(recipe: Recipe, number: int) -> list[tuple[Store, str]]:
    """Stores and channels that this release has still to be promoted to.

    In the primary store that is a channel which never was moved to this release. Another store follows the primary: it
    lacks a channel if the primary's is on this release and its own is not there at all.
    """
    primary, *others = (open_store(s) for s in recipe.stores)
    found = []
    for channel in recipe.channels:
        if primary.read_record(recipe.name, number, promotion_record(channel)) is None:
            found.append((primary, channel))
        elif primary.channel(recipe.name, channel) == number:
            found += [(store, channel) for store in others if store.channel(recipe.name, channel) is None]
    return found


def promotion_record(channel: str) -> str:
    return f"promotion-{channel}"


def move_channel(
    recipe: Recipe,
    channel: str,
    number: int,
    *,
    who: str,
    why: str,
    default_uri: str,
    expect: int | EllipsisType | None = ...,
    back: bool = False,
    trust: Trust | None = None,
) -> None:
    """Points a channel to a release: first in every store, where the truth is, then the MLflow alias.

    Args:
        default_uri: of MLflow, for a recipe that names none and a release that is not registered yet.
        expect: move it only if the primary store's channel is on this release now.
        back: it is a rollback.
        trust: whose signature the release must have in every store. Default: what the recipe says.

    Raises:
        StoreError: if a store does not have the release, or cannot be written.
        SignatureError: if a signature is required and one store has no good one.
        RegistryError: if only the alias could not be moved; the next run or `enginepress doctor --repair` moves it.
    """
    stores = [open_store(s) for s in recipe.stores]
    for store in stores:
        refuse_backup(store, recipe.name, "its channels are those of that store", beside=[s.url for s in stores])
        if number not in store.numbers(recipe.name):
            raise StoreError(
                f"has no release {number} of {recipe.name}",
                where=store.url,
                fix=f"there are: {', '.join(map(str, store.numbers(recipe.name))) or 'none'}",
            )
    if channel != UNSERVED_CHANNEL and not was_served(stores[0], recipe.name, number):
        raise StoreError(
            f"release {number} of {recipe.name} was published unserved: no server has loaded it, "
            f"so it stays on channel {UNSERVED_CHANNEL}",
            where=stores[0].url,
            fix="run its recipe with checks.served: true where it can be served; the release stays the same and is gated then",
        )
    _check_expected(stores[0], recipe.name, channel, number, expect)
    for store in stores:
        require_signature(store, recipe.name, number, trust_of(recipe, trust))
    for store in stores:
        if not _is_on(store, recipe.name, channel, number):
            expected = expect if store is stores[0] else ...
            activate(store, recipe.name, channel, number, who=who, why=why, expect=expected, back=back)
    try:
        uri = registered_at(stores[0], recipe.name, [number]) or default_uri
        MlflowRegistry(recipe.registry, default_uri=uri).set_alias(recipe.name, channel, number)
    except RegistryError as error:
        raise RegistryError(
            f"channel {channel} is on release {number} now; only MLflow's alias could not be moved: {error.message}",
            where=error.where,
            fix="`enginepress doctor TARGET --repair` moves the alias once MLflow is there",
        ) from None
    # Last, so that a run that could not move the alias tries again.
    stores[0].write_record(recipe.name, number, promotion_record(channel), {"who": who, "why": why})


def _check_expected(store: Store, model: str, channel: str, number: int, expect: int | EllipsisType | None) -> None:
    """What `Store.activate` does not see, since a channel that is where it shall be is not moved."""
    if isinstance(expect, EllipsisType) or expect == number or store.channels(model).get(channel) != number:
        return
    expected = f"release {expect}" if expect is not None else "no release"
    raise StoreError(
        f"channel {channel} of {model} is on release {number} already, not on {expected}: somebody moved it meanwhile",
        where=store.url,
        fix=f"if that is what you want, `--expect {number}` finishes what may lack: other stores, MLflow's alias",
    )


def where_it_is(recipe: Recipe, channel: str) -> int | None:
    """The release that the primary store's channel names, whether or not it dangles; None if there is no such channel."""
    return open_store(recipe.stores[0]).channels(recipe.name).get(channel)


def _is_on(store: Store, model: str, channel: str, number: int) -> bool:
    """A channel that dangles is on nothing, nor is one whose readers see something else than the release: it is made anew."""
    try:
        return store.channel(model, channel) == number and not any(view_troubles(store, model, channel, number))
    except StoreError:
        return False


def was_served(store: Store, model: str, number: int) -> bool:
    """Whether a gate has served this release, before it was published or since."""
    if store.manifest(model, number).made_with.get("gate") != "unserved":
        return True
    return any(name.startswith("checks-") and record.get("gate") for name, record in store.records(model, number).items())


def is_new_channel(recipe: Recipe, channel: str, *, meant: bool) -> bool:
    """Whether neither the recipe nor its primary store knows this channel yet.

    Args:
        meant: the operator says that a new one is wanted, however much its name is like that of another.

    Raises:
        UsageError: for what looks like a misspelt channel.
    """
    known = {*recipe.channels, *open_store(recipe.stores[0]).channels(recipe.name)}
    if channel in known:
        return False
    if trouble := reserved_channel(check_channel(channel)):
        raise UsageError(f"'{channel}' is no name for a channel: {trouble}", where="--channel")
    if not meant and (near := difflib.get_close_matches(channel, sorted(known), n=1, cutoff=0.75)):
        raise UsageError(
            f"{recipe.name} has no channel '{channel}'",
            where="--channel",
            fix=f"did you mean '{near[0]}'? If not, say --new",
        )
    return True


def activate(
    store: Store,
    model: str,
    channel: str,
    number: int,
    *,
    who: str,
    why: str,
    expect: int | EllipsisType | None = ...,
    back: bool = False,
) -> None:
    """Points a channel of one store to a release, placed for the path at which the store's readers will see it."""

    def for_readers_at(root: str) -> Placement:
        repository = store.repository(model, number)
        assert repository is not None, "only a store that is a folder has activations"
        return place(repository, number, root, side_by_side=True)

    store.activate(model, channel, number, for_readers_at, expect=expect, who=who, why=why, back=back)


def operator() -> str:
    """Who is doing this, for the history of a channel. An arbitrary uid, as on OpenShift, has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def roll_back(
    recipe: Recipe, channel: str, *, to: int | None, who: str, why: str, default_uri: str, trust: Trust | None = None
) -> int:
    """Points a channel back: to a named release, or to the one before. Returns its number.

    Raises:
        StoreError: if there is none to go back to, or somebody else has moved the channel meanwhile.
    """
    store = open_store(recipe.stores[0])
    now = where_it_is(recipe, channel)
    number = to or store.previous(recipe.name, channel)
    move_channel(recipe, channel, number, who=who, why=why, default_uri=default_uri, expect=now, back=True, trust=trust)
    return number
