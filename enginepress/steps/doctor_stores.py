"""doctor's part about stores: are they whole, do they agree, are releases signed as they should be, does anything lie about?

The primary store is the truth for the others: channels follow its channels, and a release that a channel needs, or a
signature, is copied from it. A channel whose release is gone, so that nobody can read it, goes back to the one before. What is
damaged is not mended from elsewhere by itself: that is for an operator to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone

from enginepress.errors import EnginepressError, StoreError
from enginepress.recipe import Recipe
from enginepress.signing import RECORD as SIGNATURE
from enginepress.steps.backup import copy_release
from enginepress.steps.finding import REPAIR, Finding
from enginepress.steps.promote import activate, operator
from enginepress.steps.readers_view import view_troubles
from enginepress.steps.signing import require_signature, signature_state, trust_of
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Workspace

SOON = timedelta(days=30)
"""A signer's certificate that ends before that is mentioned."""


def examine_stores(recipe: Recipe, workspace: Workspace, repair: bool) -> Iterator[Finding]:
    primary, *others = [open_store(s) for s in recipe.stores]
    for store in (primary, *others):
        yield _whole(store, recipe.name)
        yield from _strays(store, recipe.name, repair)
        yield from _takes_releases(store, recipe.name, allots=store is primary)
    yield from _own_channels(primary, recipe, repair)
    for store in others:
        yield from _agreement(primary, store, recipe.name)
        yield from _channels_like(primary, store, recipe, workspace, repair)
        yield from _own_channels(store, recipe, repair, but=_names(primary, recipe.name))
    yield from _signatures(primary, others, recipe, repair)


def whole_releases(store: Store, name: str) -> list[int]:
    """Releases whose manifest can be read; the others are among the findings about the store."""
    whole = []
    for number in store.numbers(name):
        try:
            store.manifest(name, number)
        except StoreError:
            continue
        whole.append(number)
    return whole


def _whole(store: Store, name: str) -> Finding:
    what = f"store {store.url}"
    try:
        numbers = store.numbers(name)
        damaged = [f"release {n}: {d}" for n in numbers for d in _differences(store, name, n)]
    except EnginepressError as error:
        return Finding("error", what, str(error), error.fix)
    if damaged:
        fix = "copy the release from another store or a backup, or remove its folder and run the recipe again"
        return Finding("error", what, "; ".join(damaged[:10]), fix)
    return Finding(
        "ok", what, f"{len(numbers)} release{'s' if len(numbers) != 1 else ''} of {name}, every file as its manifest says"
    )


def _differences(store: Store, name: str, number: int) -> list[str]:
    try:
        return [str(d) for d in store.verify(name, number)]
    except StoreError as error:
        return [str(error)]


def _strays(store: Store, name: str, repair: bool) -> Iterator[Finding]:
    """What lies about. What killed processes left is removed; what nobody knows is left to whoever put it there."""
    what = f"store {store.url}"
    try:
        if repair and store.numbers(name):
            store.sweep(name)
        if strays := store.strays(name):
            more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
            fix = "look at it, and move it away; nothing that enginepress keeps lies there"
            yield Finding(
                "warning", what, f"something lies in {name} that does not belong there: {', '.join(strays[:5])}{more}", fix
            )
    except EnginepressError as error:
        yield Finding("error", what, str(error), error.fix)


def _takes_releases(store: Store, name: str, *, allots: bool) -> Iterator[Finding]:
    """Whether it would take a release, which is no error for who only reads it, and what its server guarantees."""
    what = f"store {store.url}"
    try:
        store.numbers(name)
    except EnginepressError:
        return  # told already
    try:
        store.check_publishable(name, allots=allots)
        if promises := store.promises():
            yield Finding("ok", what, "; ".join(promises))
    except EnginepressError as error:
        yield Finding("warning", what, f"no run could publish there: {error}", error.fix)


# Between stores -------------------------------------------------------------------------------------------------------


def _agreement(primary: Store, store: Store, name: str) -> Iterator[Finding]:
    what = f"store {store.url}"
    try:
        for number in sorted(set(whole_releases(primary, name)) & set(whole_releases(store, name))):
            if primary.manifest(name, number).digest != store.manifest(name, number).digest:
                yield Finding(
                    "error",
                    what,
                    f"release {number} is another one than that of the primary store",
                    f"find out where it comes from, remove it there, and run `enginepress run` again; {primary.url} is the truth",
                )
    except EnginepressError as error:
        yield Finding("error", what, str(error), error.fix)


def _channels_like(primary: Store, store: Store, recipe: Recipe, workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """The other stores' channels follow the primary's."""
    name = recipe.name
    try:
        there = store.channels(name)
        for channel, number in primary.channels(name).items():
            what, here = f"channel {channel} in {store.url}", there.get(channel)
            problem = _what_readers_miss(store, name, channel, number) if here == number else None
            if here != number:
                is_on = "is not there" if here is None else f"is on release {here}"
                problem = f"{is_on}; in the primary store it is on {number}"
            if problem is None:
                continue
            if not repair:
                yield Finding("error", what, problem, REPAIR)
                continue
            copied = copy_release(primary, store, primary.manifest(name, number), workspace, primary=primary.url, progress=None)
            if copied and (bundle := primary.read_record(name, number, SIGNATURE)) is not None:
                store.write_record(name, number, SIGNATURE, bundle)
            require_signature(store, name, number, trust_of(recipe))
            activate(store, name, channel, number, who=operator(), why="enginepress doctor --repair")
            done = f"made anew on release {number}" if here == number else f"moved to release {number}"
            yield Finding("mended", what, done + (", which was copied there" if copied else ""))
    except EnginepressError as error:
        yield Finding("error", f"channels in {store.url}", str(error), error.fix)


def _own_channels(store: Store, recipe: Recipe, repair: bool, *, but: Collection[str] = ()) -> Iterator[Finding]:
    """Channels that lead nowhere, or to something else than the release that they name."""
    name = recipe.name
    try:
        for channel, number in store.channels(name).items():
            if channel in but or (problem := _what_readers_miss(store, name, channel, number)) is None:
                continue
            what, goal = f"channel {channel} in {store.url}", _leads_to(store, name, channel, number)
            if repair and goal is not None:
                done = f"made anew on release {goal}"
                why = "enginepress doctor --repair"
                if goal != number:
                    done = f"moved back to release {goal}, since release {number} is not in the store"
                    why += f": release {number} is not in the store"
                require_signature(store, name, goal, trust_of(recipe))
                activate(store, name, channel, goal, who=operator(), why=why, expect=number, back=goal != number)
                yield Finding("mended", what, done)
            else:
                gone = f"point it to a release that is there: `enginepress promote TARGET N --channel {channel}`"
                back = f"{REPAIR}: the channel goes back to release {goal}"
                yield Finding("error", what, problem, gone if goal is None else REPAIR if goal == number else back)
    except EnginepressError as error:
        yield Finding("error", f"channels in {store.url}", str(error), error.fix)


def _leads_to(store: Store, name: str, channel: str, number: int) -> int | None:
    """The release on which a channel that is not in order is made anew: that which it names, or, if that is gone and nobody can
    read it any more, the last one before that is whole. None if that is for an operator to decide."""
    if number in store.numbers(name):
        return number
    try:
        store.channel(name, channel)
        return None  # readers of a folder still have what they had
    except StoreError:
        pass
    try:
        return store.previous(name, channel, whole=True)
    except StoreError:
        return None


def _what_readers_miss(store: Store, name: str, channel: str, number: int) -> str | None:
    """What is wrong with a channel that names this release, for those who read it."""
    try:
        store.channel(name, channel)
    except StoreError as error:
        return str(error)
    if number not in store.numbers(name):
        return f"is on release {number}, which is not in the store: who mounts it still has it, who pulls does not get it"
    try:
        return next(view_troubles(store, name, channel, number), None)
    except StoreError:
        return None  # the release itself is damaged, which is told of the store


def _names(store: Store, name: str) -> Collection[str]:
    try:
        return store.channels(name)
    except EnginepressError:
        return ()  # told where the store's own channels are looked at


# Signatures -----------------------------------------------------------------------------------------------------------


def _signatures(primary: Store, others: list[Store], recipe: Recipe, repair: bool) -> Iterator[Finding]:
    name, trust = recipe.name, trust_of(recipe)
    try:
        if trust is None and recipe.signing.key is None:
            return
        good = 0
        for number in whole_releases(primary, name):
            what = f"signature of release {number}"
            state = signature_state(primary, name, number, trust)
            good += state.state == "good"
            if state.state == "bad":
                fix = f"if you have checked what it is: `enginepress sign {primary.url} {name} {number} --key FILE --again`"
                yield Finding("error", what, state.detail, fix)
            elif state.state == "unsigned":
                fix = f"if you have checked what it is: `enginepress sign {primary.url} {name} {number} --key FILE`"
                if trust is not None and trust.required and number in primary.channels(name).values():
                    yield Finding("error", what, "is missing, and a channel is on the release", fix)
                else:
                    yield Finding("warning", what, "is missing", fix)
            elif state.until is not None and _ends_soon(state.until):
                fix = f"renew it, and sign again: `enginepress sign {primary.url} {name} {number} --key FILE --again`"
                yield Finding("warning", what, f"the certificate of {state.detail} ends on {state.until[:10]}", fix)
            if state.state in ("good", "unchecked"):
                yield from _same_signature(primary, others, name, number, repair)
        if good:
            yield Finding("ok", "signatures", f"{good} releases of {name} are signed by whom they should be")
    except EnginepressError as error:
        yield Finding("error", "signatures", str(error), error.fix)


def _same_signature(primary: Store, others: list[Store], name: str, number: int, repair: bool) -> Iterator[Finding]:
    bundle = primary.read_record(name, number, SIGNATURE)
    for store in others:
        if number not in store.numbers(name) or store.read_record(name, number, SIGNATURE) == bundle:
            continue
        what = f"signature of release {number} in {store.url}"
        if repair and bundle is not None:
            store.write_record(name, number, SIGNATURE, bundle)
            yield Finding("mended", what, "copied from the primary store")
        else:
            yield Finding("error", what, "is not that of the primary store", REPAIR)


def _ends_soon(until: str) -> bool:
    return datetime.strptime(until, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc) - datetime.now(timezone.utc) < SOON
