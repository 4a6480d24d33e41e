"""What a store holds of one model, for lists and tables. Reads the store's small records only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from enginepress.errors import StoreError
from enginepress.recipe import Recipe
from enginepress.steps.register import RECORD
from enginepress.steps.signing import signature_state, trust_of
from enginepress.stores.open import open_store
from enginepress.stores.store import Store


@dataclass(frozen=True)
class ReleaseRow:
    """One release. `channels` are those that point to it now; `model_version` is MLflow's, or empty; `stores` are those of the
    recipe that hold it, and `signature` is `unsigned`, `unchecked`, `good` or `bad`, with `signer`.

    Of a release whose manifest cannot be read only `release`, `channels` and `damage` are known.
    """

    release: int
    channels: list[str]
    created: str
    builder: str
    precision: str
    source: str
    revision: str
    build_key: str
    content_digest: str
    gated: bool
    model_version: str
    folder: str
    stores: list[str] = field(default_factory=list)
    signature: str = ""
    signer: str = ""
    damage: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


SHOWN = 10
"""Releases that people are shown unless they ask for more."""


def overview(recipe: Recipe, *, newest: int | None = None) -> list[ReleaseRow]:
    """Releases in the primary store, oldest first.

    Args:
        newest: only so many, besides those on channels; None: all, which takes a few milliseconds each.
    """
    store, *others = (open_store(s) for s in recipe.stores)
    channels = store.channels(recipe.name)
    numbers = store.numbers(recipe.name)
    if newest is not None:
        wanted = {*numbers[-newest:], *channels.values()}
        numbers = [number for number in numbers if number in wanted]
    held = {other.url: _held(other, recipe.name) for other in others}
    trust = trust_of(recipe)
    rows = []
    for number in numbers:
        try:
            manifest = store.manifest(recipe.name, number)
        except StoreError as error:
            rows.append(_damaged(number, channels, error))
            continue
        records = store.records(recipe.name, manifest.release)
        engine = manifest.recipe.get("engine", {})
        signature = signature_state(store, recipe.name, number, trust)
        rows.append(
            ReleaseRow(
                release=manifest.release,
                channels=sorted(c for c, n in channels.items() if n == manifest.release),
                created=manifest.created,
                builder=engine.get("builder", "onnxruntime"),
                precision=engine.get("precision", "float32"),
                source=manifest.made_from["source"],
                revision=manifest.made_from["revision"],
                build_key=manifest.build_key,
                content_digest=manifest.content_digest,
                gated=any(name.startswith("checks-") for name in records),
                model_version=str(records.get(RECORD, {}).get("model_version", "")),
                folder=store.location(recipe.name, manifest.release),
                stores=[store.url, *(url for url, numbers in held.items() if number in numbers)],
                signature=signature.state,
                signer=signature.detail if signature.state == "good" else "",
            )
        )
    return rows


@dataclass(frozen=True)
class MoveRow:
    """One move of a channel. `back`: it was a rollback."""

    channel: str
    at: str
    release: int
    previous: int | None
    who: str
    why: str
    back: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def moves(recipe: Recipe) -> list[MoveRow]:
    """Every move of every channel in the primary store, oldest first.

    Raises:
        StoreError: for a damaged history, naming its line.
    """
    store = open_store(recipe.stores[0])
    found = [
        MoveRow(channel, move.at, move.release, move.previous, move.who, move.why, move.back)
        for channel in store.channels(recipe.name)
        for move in store.history(recipe.name, channel)
    ]
    return sorted(found, key=lambda row: row.at)


def _held(store: Store, model: str) -> set[int]:
    """What another store holds; nothing, where it cannot be asked: `doctor` says why."""
    try:
        return set(store.numbers(model))
    except StoreError:
        return set()


def _damaged(number: int, channels: dict[str, int], error: StoreError) -> ReleaseRow:
    pointing = sorted(c for c, n in channels.items() if n == number)
    return ReleaseRow(number, pointing, "", "", "", "", "", "", "", gated=False, model_version="", folder="", damage=str(error))
