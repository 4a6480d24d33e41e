"""Releases as a run leaves them, without a run: for tests and measurements of what is decided from stores' small records."""

from __future__ import annotations

from pathlib import Path

from enginepress.engines import get_builder
from enginepress.files import FileEntry
from enginepress.manifest import Manifest
from enginepress.mlflow_access import shown
from enginepress.recipe import Recipe
from enginepress.repository import Placement
from enginepress.sources import Revision
from enginepress.steps.job import Plan
from enginepress.steps.promote import promotion_record
from enginepress.steps.register import RECORD
from enginepress.steps.verify import checks_record
from enginepress.stores.open import open_store


def pretend_release(recipe: Recipe, plan: Plan, revision: Revision, scratch: Path) -> int:
    """Publishes one file under the plan's build key, with the records of a run that gated, registered and promoted it."""
    store = open_store(recipe.stores[0])
    model = scratch / "model.py"
    model.write_text("# serves\n")
    name = recipe.name

    def describe(number: int, files: tuple[FileEntry, ...]) -> Manifest:
        return Manifest(
            model=name,
            release=number,
            build_key=plan.build_key,
            content_digest=plan.build_key[::-1],
            files=files,
            made_from={"source": recipe.source.uri, "revision": revision.id, "revision_digest": revision.digest},
            made_with={"enginepress": "0.1.0", "environment": dict(plan.inputs["environment"])},
            recipe=recipe.canonical(),
            served_by=get_builder(recipe.engine.builder).served_by(recipe),
        )

    def place(number: int) -> Placement:
        return Placement(number, {f"{name}/config.pbtxt": b""}, {f"{name}/{number}/model.py": model})

    number = store.publish(name, place=place, describe=describe).release
    store.write_record(name, number, checks_record(plan), {"passed": True})
    tracking = {"tracking_uri": shown(recipe.registry.tracking_uri or "")}
    store.write_record(name, number, RECORD, {"stores": [s.url for s in recipe.stores], "model_version": "1", **tracking})
    for channel in recipe.channels:
        store.activate(name, channel, number, lambda _root: place(number), who="test", why="because")
        store.write_record(name, number, promotion_record(channel), {"who": "test", "why": "because"})
    return number
