"""doctor: would a run work here, and do stores, channels and registry agree? With repair, mends what follows from the stores.

The stores are the truth. A release that is not registered gets registered, an alias that points elsewhere than its channel
is moved, a channel of another store is moved to where the primary's points, with the release if it lacks there, a signature
is copied to where it lacks, and what killed runs left is removed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, StoreError
from enginepress.quantities import size_text
from enginepress.recipe import Recipe
from enginepress.registry import MlflowRegistry
from enginepress.serving.installation import find_installation, prepare, probe_python
from enginepress.steps.doctor_stores import examine_stores, whole_releases
from enginepress.steps.finding import REPAIR, Finding
from enginepress.steps.register import RECORD, default_tracking_uri, register_release, registered_at
from enginepress.stores.open import open_store
from enginepress.stores.store import Store
from enginepress.workspace import Workspace


def examine(recipe: Recipe | None, workspace: Workspace, *, repair: bool) -> list[Finding]:
    """Everything that was looked at, in order. Nothing is raised: what cannot be looked at is an error among the findings."""
    findings = [*_machine(recipe), *_workspace(workspace, repair)]
    if recipe is not None:
        findings += examine_stores(recipe, workspace, repair)
        findings += _registry(recipe, workspace, repair)
    return list(_told_once(findings))


def _told_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """A trouble that several looks ran into, a store that cannot be read above all, is told where it was met first."""
    told: set[str] = set()
    for finding in findings:
        if finding.status == "error" and finding.message in told:
            continue
        told.add(finding.message)
        yield finding


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
        return f"{workspace.root}, {size_text(shutil.disk_usage(workspace.root).free)} free"

    yield _tried("workspace", writable)
    leftovers = workspace.leftovers() if os.path.isdir(workspace.root) else []
    if leftovers and repair:
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        yield Finding("mended", "leftovers", f"{len(leftovers)} folders of killed runs removed")
    elif leftovers:
        size = sum(p.lstat().st_size for folder in leftovers for p in folder.rglob("*"))
        fix = "the next run of the same recipe reuses or removes them; --repair removes them now"
        yield Finding("warning", "leftovers", f"{len(leftovers)} folders of killed runs, {size_text(size)}", fix)


# Registry -------------------------------------------------------------------------------------------------------------


def _channels(store: Store, model: str) -> dict[str, int]:
    """None where they cannot be read: that is among the findings about the store."""
    try:
        return store.channels(model)
    except StoreError:
        return {}


def _registry_uri(recipe: Recipe, workspace: Workspace, store: Store) -> str:
    try:
        known = registered_at(store, recipe.name, reversed(whole_releases(store, recipe.name)))
    except EnginepressError:  # is among the findings about the store
        known = None
    return known or default_tracking_uri(workspace)


def _registry(recipe: Recipe, workspace: Workspace, repair: bool) -> Iterator[Finding]:
    store = open_store(recipe.stores[0])
    uri = _registry_uri(recipe, workspace, store)
    what = f"registry {recipe.registry.tracking_uri or uri}"
    try:
        registry = MlflowRegistry(recipe.registry, default_uri=uri)
        digests = {n: store.manifest(recipe.name, n).digest for n in whole_releases(store, recipe.name)}
        versions = registry.describe(recipe.name)
        # A version of another release with the same number, of a store that is gone, stands for nothing here.
        known = {v.release for v in versions if v.manifest_digest == digests.get(v.release, v.manifest_digest)}
        for version in versions:
            if version.manifest_digest != digests.get(version.release, version.manifest_digest):
                message = f"version {version.model_version} of {recipe.name} stands for another release {version.release}"
                yield Finding(
                    "warning", what, message, "delete that version in MLflow, if the release is from a store that is gone"
                )
        for number in digests:
            recorded = store.read_record(recipe.name, number, RECORD) is not None
            if number in known and recorded:
                continue
            if repair:
                register_release(recipe, store, number, default_uri=uri)
                known.add(number)
                yield Finding("mended", what, f"release {number} registered")
            else:
                yield Finding("error", what, f"release {number} is not registered", REPAIR)
        for channel, number in _channels(store, recipe.name).items():
            alias = registry.alias(recipe.name, channel)
            if alias == number:
                yield Finding("ok", f"channel {channel}", f"release {number}, in the store and in MLflow")
            elif repair:
                registry.set_alias(recipe.name, channel, number)
                yield Finding("mended", f"channel {channel}", f"MLflow's alias moved to release {number}")
            else:
                message = f"is on release {number}, MLflow's alias on {alias}"
                yield Finding("error", f"channel {channel}", message, REPAIR)
        yield Finding("ok", what, f"{len(known)} release{'s' if len(known) != 1 else ''} of {recipe.name}")
    except EnginepressError as error:
        yield Finding("error", what, str(error), error.fix)
