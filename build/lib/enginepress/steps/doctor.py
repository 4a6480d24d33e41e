"""doctor: would a run work here, and do stores, channels and registry agree? With repair, mends what follows from the stores.

The stores are the truth. A release that is not registered gets registered, an alias that points elsewhere than its channel
is moved, a channel of another store is moved to where the primary's points, and what killed runs left is removed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, StoreError
from enginepress.recipe import Recipe
from enginepress.registry import MlflowRegistry
from enginepress.serving.installation import find_installation, prepare, probe_python
from enginepress.steps.promote import activate, operator
from enginepress.steps.register import RECORD, default_tracking_uri, register_release
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Workspace

REPAIR = "run the same command with --repair"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    status: Literal["ok", "mended", "warning", "error"]
    what: str
    message: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(recipe: Recipe | None, workspace: Workspace, *, repair: bool) -> list[Finding]:
    """Everything that was looked at, in order. Nothing is raised: what cannot be looked at is an error among the findings."""
    findings = [*_machine(recipe), *_workspace(workspace, repair)]
    if recipe is not None:
        findings += _stores(recipe, repair)
        findings += _registry(recipe, workspace, repair)
    return findings


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", what, look())
    except EnginepressError as error:
        return Finding("error", what, str(error), error.fix)


# This machine ---------------------------------------------------------------------------------------------------------


def _machine(recipe: Recipe | None) -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.machine()}, {' '.join(platform.libc_ver())}")
    yield _package("kfp", "runs the pipeline", "kfp")
    yield _package("mlflow", "the registry", "mlflow")
    checked = recipe or Recipe.model_validate({"name": "any", "source": "file:///any", "stores": ["file:///any"]})
    builder = get_builder(checked.engine.builder)
    yield _tried(f"builder {builder.name}", lambda: ", ".join(f"{k} {v}" for k, v in builder.installed(checked).items()))
    yield _tried("Triton", _triton)


def _package(name: str, purpose: str, extra: str) -> Finding:
    try:
        return Finding("ok", name, f"{importlib.metadata.version(name)} ({purpose})")
    except importlib.metadata.PackageNotFoundError:
        return Finding("error", name, f"is not installed ({purpose})", f"pip install 'enginepress[{extra}]'")


def _triton() -> str:
    import tempfile

    installation = find_installation()
    if not installation.from_wheel:
        return f"{installation.binary}"
    with tempfile.TemporaryDirectory() as scratch:
        launch = prepare(installation, Path(scratch))
        facts = probe_python(launch.env)
    return f"{installation.binary} (from the wheel), models see {facts.interpreter} with numpy {facts.numpy}"


# Workspace ------------------------------------------------------------------------------------------------------------


def _workspace(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    def writable() -> str:
        workspace.check_writable()
        return f"{workspace.root}, {shutil.disk_usage(workspace.root).free / 2**30:.1f} GiB free"

    yield _tried("workspace", writable)
    leftovers = workspace.leftovers() if os.path.isdir(workspace.root) else []
    if leftovers and repair:
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        yield Finding("mended", "leftovers", f"{len(leftovers)} folders of killed runs removed")
    elif leftovers:
        size = sum(p.lstat().st_size for folder in leftovers for p in folder.rglob("*"))
        fix = "the next run of the same recipe reuses or removes them; --repair removes them now"
        yield Finding("warning", "leftovers", f"{len(leftovers)} folders of killed runs, {size / 1e6:,.1f} MB", fix)


# Stores and channels --------------------------------------------------------------------------------------------------


def _stores(recipe: Recipe, repair: bool) -> Iterator[Finding]:
    primary, *others = [open_store(s) for s in recipe.stores]
    name = recipe.name
    for store in (primary, *others):
        try:
            numbers = store.numbers(name)
            damaged = [f"release {n}: {d}" for n in numbers for d in _differences(store, name, n)]
            if damaged:
                fix = "copy the release from another store or a backup, or remove its folder and run the recipe again"
                yield Finding("error", f"store {store.url}", "; ".join(damaged[:10]), fix)
            else:
                yield Finding("ok", f"store {store.url}", f"{len(numbers)} releases of {name}, every file as its manifest says")
        except EnginepressError as error:
            yield Finding("error", f"store {store.url}", str(error), error.fix)
    for store in others:
        yield from _channels_like(primary, store, name, repair)


def _differences(store: Store, name: str, number: int) -> list[str]:
    try:
        return [str(d) for d in store.verify(name, number)]
    except StoreError as error:
        return [str(error)]


def _channels_like(primary: Store, store: Store, name: str, repair: bool) -> Iterator[Finding]:
    """The other stores' channels follow the primary's."""
    try:
        there = store.channels(name)
        for channel, number in primary.channels(name).items():
            if there.get(channel) == number:
                continue
            what = f"channel {channel} in {store.url}"
            if repair and number in store.numbers(name):
                activate(store, name, channel, number, who=operator(), why="enginepress doctor --repair")
                yield Finding("mended", what, f"moved to release {number}")
            else:
                message = f"is on release {there.get(channel)}, in the primary store on {number}"
                yield Finding("error", what, message, REPAIR)
    except EnginepressError as error:
        yield Finding("error", f"channels in {store.url}", str(error), error.fix)


def _whole(store: Store, name: str) -> list[int]:
    """Releases whose manifest can be read; the others are among the findings about the store."""
    whole = []
    for number in store.numbers(name):
        try:
            store.manifest(name, number)
        except StoreError:
            continue
        whole.append(number)
    return whole


# Registry -------------------------------------------------------------------------------------------------------------


def _registry(recipe: Recipe, workspace: Workspace, repair: bool) -> Iterator[Finding]:
    store = open_store(recipe.stores[0])
    uri = default_tracking_uri(workspace)
    what = f"registry {recipe.registry.tracking_uri or uri}"
    try:
        registry = MlflowRegistry(recipe.registry, default_uri=uri)
        known = {v.release for v in registry.describe(recipe.name)}
        for number in _whole(store, recipe.name):
            recorded = store.read_record(recipe.name, number, RECORD) is not None
            if number in known and recorded:
                continue
            if repair:
                register_release(recipe, store, number, default_uri=uri)
                known.add(number)
                yield Finding("mended", what, f"release {number} registered")
            else:
                yield Finding("error", what, f"release {number} is not registered", REPAIR)
        for channel, number in store.channels(recipe.name).items():
            alias = registry.alias(recipe.name, channel)
            if alias == number:
                yield Finding("ok", f"channel {channel}", f"release {number}, in the store and in MLflow")
            elif repair:
                registry.set_alias(recipe.name, channel, number)
                yield Finding("mended", f"channel {channel}", f"MLflow's alias moved to release {number}")
            else:
                message = f"is on release {number}, MLflow's alias on {alias}"
                yield Finding("error", f"channel {channel}", message, REPAIR)
        yield Finding("ok", what, f"{len(known)} releases of {recipe.name}")
    except EnginepressError as error:
        yield Finding("error", what, str(error), error.fix)
