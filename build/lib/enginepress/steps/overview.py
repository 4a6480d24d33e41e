"""What a store holds of one model, for lists and tables. Reads the store's small records only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from enginepress.errors import StoreError
from enginepress.recipe import Recipe
from enginepress.steps.register import RECORD
from enginepress.stores.open import open_store


@dataclass(frozen=True)
class ReleaseRow:
    """One release. `channels` are those that point to it now; `model_version` is MLflow's, or empty.

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
    damage: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overview(recipe: Recipe) -> list[ReleaseRow]:
    """Every release in the primary store, oldest first."""
    store = open_store(recipe.stores[0])
    channels = store.channels(recipe.name)
    rows = []
    for number in store.numbers(recipe.name):
        try:
            manifest = store.manifest(recipe.name, number)
        except StoreError as error:
            rows.append(_damaged(number, channels, error))
            continue
        records = store.records(recipe.name, manifest.release)
        engine = manifest.recipe.get("engine", {})
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
            )
        )
    return rows


def _damaged(number: int, channels: dict[str, int], error: StoreError) -> ReleaseRow:
    pointing = sorted(c for c, n in channels.items() if n == number)
    return ReleaseRow(number, pointing, "", "", "", "", "", "", "", gated=False, model_version="", folder="", damage=str(error))
