"""register: the release as a version of the MLflow model, with an experiment run that says how it came about.

MLflow is a view of what the stores hold. If it cannot be reached, the release stays published, and the next run or
`enginepress doctor --repair` finishes the registration.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from enginepress.errors import StoreError
from enginepress.mlflow_access import shown, sqlite_path
from enginepress.recipe import Recipe
from enginepress.registry import MlflowRegistry, Registration
from enginepress.steps.job import Job, Plan
from enginepress.steps.report import Report, write_report
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Workspace

RECORD = "registration"


def register(job: Job, plan: Plan) -> dict[str, Any]:
    """Raises RegistryError if the registry cannot be reached or refuses."""
    primary = open_store(job.recipe.stores[0])
    number = published_release(primary, job.recipe.name, plan)
    if is_registered(job.recipe, primary, number):
        return {"skipped": f"release {number} is registered already", "release": number}
    registration = register_release(job.recipe, primary, number, default_uri=default_tracking_uri(job.workspace))
    return {"release": number, "model_version": registration.model_version, "tracking_uri": registration.tracking_uri}


def is_registered(recipe: Recipe, store: Store, number: int) -> bool:
    """Whether the release's record says that it is registered where the recipe wants it, with the stores that it names."""
    record = store.read_record(recipe.name, number, RECORD)
    if record is None or record["stores"] != [s.url for s in recipe.stores]:
        return False
    wanted = recipe.registry.tracking_uri
    return wanted is None or record["tracking_uri"] == shown(wanted)


def published_release(store: Store, model: str, plan: Plan) -> int:
    """The number under which publish left this build."""
    if plan.release:
        return plan.release
    found = store.find(model, plan.build_key)
    assert found is not None, "register runs after publish"
    return found.release


def registered_at(store: Store, model: str, numbers: Iterable[int]) -> str | None:
    """Where the first of these releases that is registered was registered: it is there, whatever workspace is named now.

    A database file that is not on this machine counts for nothing, nor does a record that cannot be read.
    """
    for number in numbers:
        with contextlib.suppress(StoreError, KeyError):
            if (record := store.read_record(model, number, RECORD)) is not None:
                uri = str(record["tracking_uri"])
                database = sqlite_path(uri)
                return uri if database is None or database.is_file() else None
    return None


def default_tracking_uri(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.path('mlflow.db').resolve()}"


def register_release(recipe: Recipe, store: Store, number: int, *, default_uri: str) -> Registration:
    """Registers a published release, with the aliases of channels that are on it, and leaves a record of it in the store.

    Doing it twice is doing it once.
    """
    manifest = store.manifest(recipe.name, number)
    report = newest_report(store, recipe.name, number)
    registry = MlflowRegistry(recipe.registry, default_uri=default_uri)
    with tempfile.TemporaryDirectory() as scratch:
        files = write_report(report, Path(scratch)) if report is not None else []
        registration = registry.register(
            model=recipe.name,
            release=number,
            manifest=manifest,
            stores=[s.url for s in recipe.stores],
            params=_params(recipe),
            metrics=report.metrics() if report is not None else {},
            step_seconds=report.facts.get("step_seconds", {}) if report is not None else {},
            report_files=files,
        )
    for channel, pointed in store.channels(recipe.name).items():
        if pointed == number:
            registry.set_alias(recipe.name, channel, number)
    record = {
        "model_version": registration.model_version,
        "run_id": registration.run_id,
        "tracking_uri": registration.tracking_uri,
        "stores": [s.url for s in recipe.stores],
    }
    store.write_record(recipe.name, number, RECORD, record)
    return registration


def newest_report(store: Store, model: str, number: int) -> Report | None:
    """The report of the last gate that this release passed."""
    reports = [r for name, r in store.records(model, number).items() if name.startswith("checks-")]
    return Report.from_json(reports[-1]) if reports else None


def _params(recipe: Recipe) -> dict[str, str]:
    """The recipe's build fields, flat, as MLflow shows parameters."""
    flat: dict[str, str] = {"source.uri": recipe.source.uri}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{prefix}.{key}")
        elif value is not None:
            flat[prefix] = str(value)

    walk(recipe.engine.model_dump(mode="json"), "engine")
    walk(recipe.serving.model_dump(mode="json"), "serving")
    return flat
