"""prune: old releases leave the store; whatever anybody may still need stays.

What stays, whatever the rules say: a release on a channel; the one to which a rollback of that channel leads; one that left a
channel, or was published, within the grace period, since a server or a pull may still be reading it and a run may be about to
promote it; one whose manifest cannot be read, since nobody knows what it is. Of the others the rules keep the newest N and those
younger than D. Releases that a recipe has in several stores are judged over all of them.

The store itself refuses to remove a release that a channel points to, under the lock that movers hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from enginepress.errors import StoreError, UsageError
from enginepress.quantities import parse_duration
from enginepress.recipe import Retention
from enginepress.steps.catalogue import refuse_backup
from enginepress.steps.stored_recipe import recipe_in
from enginepress.stores.open import as_single_writer, open_store, open_url
from enginepress.stores.store import Store

GRACE_SECONDS = 3600.0


@dataclass(frozen=True)
class Policy:
    """What the rules keep.

    Attributes:
        keep: the newest so many; 0: none for being new.
        younger_than: those published less than so many seconds ago.
        grace: seconds during which nothing that was just used is removed.
    """

    keep: int = 0
    younger_than: float = 0.0
    grace: float = GRACE_SECONDS


@dataclass(frozen=True)
class Fate:
    """What happens to one release, and why. `kept` holds the reasons; without any it goes."""

    release: int
    created: str
    size: int
    kept: tuple[str, ...]


@dataclass(frozen=True)
class StorePlan:
    """What would be removed from one store of one model.

    Attributes:
        freed: bytes that removing it really frees, at least.
    """

    store: Store
    model: str
    fates: tuple[Fate, ...]
    freed: int

    @property
    def doomed(self) -> list[Fate]:
        return [fate for fate in self.fates if not fate.kept]

    def to_json(self) -> dict[str, Any]:
        fates = [asdict(fate) for fate in self.fates]
        return {"store": self.store.url, "model": self.model, "freed": self.freed, "releases": fates}


@dataclass
class Pruned:
    """What was done in one store: numbers that went, and for those that could not go, why."""

    removed: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def policy_of(retention: Retention | None, keep: int | None, younger_than: str | None, grace: str | None) -> Policy:
    """The rules: those of the command, or else the recipe's.

    Raises:
        UsageError: if neither says what to keep.
    """
    if keep is None and younger_than is None and retention is not None:
        keep, younger_than = retention.keep, retention.younger_than
    if keep is None and younger_than is None:
        raise UsageError(
            "neither the command nor the recipe says which releases to keep",
            fix="say `--keep 10`, `--younger-than 30d` or both, or write `retention` into the recipe",
        )
    return Policy(
        keep or 0,
        parse_duration(younger_than) if younger_than is not None else 0.0,
        parse_duration(grace) if grace is not None else GRACE_SECONDS,
    )


def stored_retention(store: Store, model: str) -> Retention | None:
    """The rules in the recipe of the newest release that can be read."""
    for number in reversed(store.numbers(model)):
        try:
            return Retention.model_validate(store.manifest(model, number).recipe.get("retention", {}))
        except (StoreError, ValueError):
            continue
    return None


def plan_prune(stores: Sequence[Store], model: str, policy: Policy, *, now: float | None = None) -> list[StorePlan]:
    """What pruning would remove from each store. Changes nothing.

    Raises:
        StoreError: if a store cannot be read, is a backup, or a channel is damaged: then nobody knows what is needed.
    """
    now = time.time() if now is None else now
    for store in stores:
        doing = "`enginepress backup … --prune` removes what that store has no more"
        refuse_backup(store, model, doing, beside=[s.url for s in stores])
    needed: dict[int, list[str]] = {}
    for store in stores:
        for number, reasons in _needed(store, model, policy, now).items():
            known = needed.setdefault(number, [])
            known += [reason for reason in reasons if reason not in known]
    return [_plan(store, model, policy, needed, now) for store in stores]


def prune(plans: Sequence[StorePlan], policy: Policy, on_removed: Callable[[StorePlan, int], None] | None = None) -> list[Pruned]:
    """Removes what was planned, as far as it is still to go: channels may have moved since. Oldest first.

    Raises:
        StoreError: if a store cannot be read or written, or demands a single writer; nothing was removed then.
    """
    if not plans:
        return []
    again = plan_prune([plan.store for plan in plans], plans[0].model, policy)
    for plan in again:
        plan.store.check_removable()
    done = []
    for before, plan in zip(plans, again, strict=True):
        plan.store.sweep(plan.model)
        wanted = {fate.release for fate in before.doomed}
        result = Pruned()
        for fate in plan.doomed:
            if fate.release not in wanted:
                continue
            try:
                plan.store.remove(plan.model, fate.release)
            except StoreError as error:
                if fate.release in plan.store.numbers(plan.model):  # else another prune was faster
                    result.refused[fate.release] = str(error)
                continue
            result.removed.append(fate.release)
            if on_removed is not None:
                on_removed(plan, fate.release)
        done.append(result)
    return done


def _plan(store: Store, model: str, policy: Policy, needed: Mapping[int, Sequence[str]], now: float) -> StorePlan:
    numbers = store.numbers(model)
    # What cannot be read stays, and must not push the newest whole ones out.
    whole: list[int] = []
    found: list[tuple[int, str, int, list[str]]] = []
    for number in numbers:
        reasons = list(needed.get(number, ()))
        created, size = "", 0
        try:
            manifest = store.manifest(model, number)
            created, size = manifest.created, manifest.size
            age = now - _seconds(created)
            if age < policy.younger_than:
                reasons.append("young")
            elif age < policy.grace:
                reasons.append("just published")
            whole.append(number)
        except StoreError as error:
            if number not in store.numbers(model):
                continue  # another prune was faster
            reasons.append(f"damaged: {error.message}")
        found.append((number, created, size, reasons))
    newest = set(whole[-policy.keep :]) if policy.keep else set()
    fates = [Fate(n, created, size, (*reasons, *(("new",) if n in newest else ()))) for n, created, size, reasons in found]
    return StorePlan(store, model, tuple(fates), store.freed(model, [f.release for f in fates if not f.kept]))


def _needed(store: Store, model: str, policy: Policy, now: float) -> dict[int, list[str]]:
    """Releases that channels need, each with the reasons."""
    found: dict[int, list[str]] = {}
    for channel, number in store.channels(model).items():
        found.setdefault(number, []).append(f"on {channel}")
        history = store.history(model, channel)  # raises if it is damaged: then nobody knows what a rollback leads to
        if (before := store.release_before(model, channel)) is not None:
            found.setdefault(before, []).append(f"rollback of {channel}")
        for move in history:
            if move.previous is not None and now - _seconds(move.at) < policy.grace:
                reasons = found.setdefault(move.previous, [])
                if (reason := f"just left {channel}") not in reasons:
                    reasons.append(reason)
    return found


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def models_at(url: str, *, single_writer: bool = False) -> list[tuple[Store, str]]:
    """The models that are meant, all of STORE or the one of STORE/MODEL, each with the store as its own recipe has it.

    Args:
        single_writer: the operator vouches that nobody else writes to it at the same time.

    Raises:
        StoreError: if neither has anything published.
    """
    url = url.rstrip("/")
    store = open_url(url, single_writer=single_writer)
    models = store.models()
    base, _, model = url.rpartition("/")
    if not models and base.partition("://")[2].strip("/"):
        store = open_url(base, single_writer=single_writer)
        models = [model] if model in store.models() else []
    if models:
        return [(_as_its_recipe_has_it(store, model, single_writer), model) for model in models]
    raise StoreError("holds no releases", where=url, fix="name STORE or STORE/MODEL, as file:///srv/models/tiny-llama")


def _as_its_recipe_has_it(store: Store, model: str, single_writer: bool) -> Store:
    """With the settings that the model's newest recipe has for it, `single_writer` for one; as it is, if that names another."""
    try:
        settings = recipe_in(store, model).stores[0]
    except StoreError:
        return store
    return open_store(as_single_writer(settings) if single_writer else settings)
