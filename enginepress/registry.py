"""The MLflow registry: a view of what the stores hold, for the people and tools that look there.

    registered model <recipe name>
      version 4, tags: release 7, build_key, manifest_digest, revision, stores; alias production
      source: enginepress://tiny/7?store=file:///srv/models
      run "tiny release 7": parameters, metrics, seconds.<step>, the report as artifacts; never the engine's bytes

What makes a release the same release is `release`, `build_key` and `manifest_digest`; runs and versions carry all three.
Registering looks for them first, so that whatever was killed or tried twice leaves one run and one version. If two register
the same release at once, both make a version, and both keep the lower one and remove the other.

The source is no path: an MLflow server refuses paths, `file:` URIs, and any URI whose path is something else on its own disk.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from enginepress.canonical import canonical_json
from enginepress.errors import RegistryError
from enginepress.manifest import Manifest
from enginepress.mlflow_access import LATER, error_code, is_server, session, shown, sqlite_path

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking.client import MlflowClient

    from enginepress.recipe import Registry

_VALUE_LENGTH = 6000
_BATCH = 100


@dataclass(frozen=True)
class Registration:
    """Where a release stands in MLflow."""

    model_version: int
    run_id: str
    tracking_uri: str


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model that stands for a release. `aliases` are the channels that MLflow shows for it."""

    model_version: int
    release: int
    build_key: str
    manifest_digest: str
    stores: tuple[str, ...]
    run_id: str
    aliases: tuple[str, ...]


class MlflowRegistry:
    """One MLflow.

    Args:
        settings: the recipe's `registry`.
        default_uri: used when the recipe names none: SQLite in the workspace.
    """

    def __init__(self, settings: Registry, *, default_uri: str) -> None:
        self.tracking_uri = settings.tracking_uri or default_uri
        self._settings = settings
        self._default_uri = default_uri

    # Releases ---------------------------------------------------------------------------------------------------------

    def register(
        self,
        *,
        model: str,
        release: int,
        manifest: Manifest,
        stores: Sequence[str],
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        step_seconds: Mapping[str, float],
        report_files: Sequence[Path],
    ) -> Registration:
        """Registers a release; once registered, only its list of stores is brought up to date.

        Raises:
            RegistryError: if MLflow cannot be reached or refuses. The release stays published.
        """
        identity = {"release": str(release), "build_key": manifest.build_key, "manifest_digest": manifest.digest}
        tags = {**identity, "revision": manifest.made_from["revision"], "stores": canonical_json(list(stores))}
        with self._session(f"registering release {release} of {model}") as client:
            versions = versions_of(client, model, identity)
            if not versions:
                run = self._run(client, f"{model} release {release}", {"model": model, **tags})
                if run.info.status != "FINISHED":
                    _fill(client, run, params, {**metrics, **{f"seconds.{k}": v for k, v in step_seconds.items()}}, report_files)
                with _tolerating("RESOURCE_ALREADY_EXISTS"):
                    client.create_registered_model(model)
                source = f"enginepress://{model}/{release}?store={quote(stores[0], safe='/:')}"
                client.create_model_version(model, source, run_id=run.info.run_id, tags=tags, await_creation_for=0)
                versions = versions_of(client, model, identity)
            first, *others = versions
            for other in others:
                _remove(client, other, keep_run=first.run_id or "")
            if first.tags.get("stores") != tags["stores"]:
                client.set_model_version_tag(model, first.version, "stores", tags["stores"])
            return Registration(int(first.version), first.run_id or "", shown(self.tracking_uri))

    def describe(self, model: str) -> list[RegisteredVersion]:
        """Every version that stands for a release, oldest first. Empty if the model is not registered."""
        with self._session(f"reading the registered model {model}") as client:
            aliases = _aliases(client, model)
            return [
                RegisteredVersion(
                    model_version=int(version.version),
                    release=number,
                    build_key=version.tags.get("build_key", ""),
                    manifest_digest=version.tags.get("manifest_digest", ""),
                    stores=_stores_of(version),
                    run_id=version.run_id or "",
                    aliases=tuple(sorted(a for a, v in aliases.items() if v == int(version.version))),
                )
                for version in versions_of(client, model, {})
                if (number := release_of(version)) is not None
            ]

    # Aliases ----------------------------------------------------------------------------------------------------------

    def set_alias(self, model: str, channel: str, release: int) -> None:
        """Points the alias of a channel's name to a release's version; to the newest, should there be several.

        Raises:
            RegistryError: if the release is not registered.
        """
        with self._session(f"moving the alias {channel} of {model}") as client:
            versions = versions_of(client, model, {"release": str(release)})
            if not versions:
                raise RegistryError(
                    f"release {release} of {model} is not registered, so the alias {channel} cannot point to it",
                    where=shown(self.tracking_uri),
                    fix="`enginepress doctor TARGET --repair` registers it and moves the alias",
                )
            client.set_registered_model_alias(model, channel, str(versions[-1].version))

    def alias(self, model: str, channel: str) -> int | None:
        """The release to which a channel's alias points; None without such an alias, or if it points to no release."""
        with self._session(f"reading the alias {channel} of {model}") as client:
            version = _aliases(client, model).get(channel)
            return release_of(client.get_model_version(model, str(version))) if version is not None else None

    # Runs -------------------------------------------------------------------------------------------------------------

    def _run(self, client: MlflowClient, name: str, tags: dict[str, str]) -> Run:
        """The run of a release: one that was made before, whole or not, or a new one."""
        experiment = self._experiment(client)
        wanted = " and ".join(f"tags.{k} = '{tags[k]}'" for k in ("model", "release", "build_key", "manifest_digest"))
        found = client.search_runs([experiment], filter_string=wanted, max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else client.create_run(experiment, run_name=name, tags=tags)

    def _experiment(self, client: MlflowClient) -> str:
        name = self._settings.experiment
        known = client.get_experiment_by_name(name)
        if known is None:
            with _tolerating("RESOURCE_ALREADY_EXISTS"):
                return str(client.create_experiment(name, artifact_location=self._artifact_location()))
            known = client.get_experiment_by_name(name)
        if known is None or known.lifecycle_stage != "active":
            raise RegistryError(
                f"the experiment '{name}' was deleted in MLflow",
                where="registry.experiment",
                fix=f"restore it there, or name another one in the recipe; {LATER}",
            )
        return str(known.experiment_id)

    def _artifact_location(self) -> str | None:
        """Beside the database. A server decides itself, and MLflow's default without one is the current folder."""
        if is_server(self.tracking_uri):
            return None
        database = sqlite_path(self.tracking_uri) or sqlite_path(self._default_uri)
        if database is None:
            return None
        return f"file://{quote(str(database.absolute().with_name('mlflow-artifacts')))}"

    def _session(self, doing: str) -> contextlib.AbstractContextManager[MlflowClient]:
        return session(self.tracking_uri, self._settings, doing=doing)


def _fill(
    client: MlflowClient, run: Run, params: Mapping[str, Any], metrics: Mapping[str, float], report_files: Sequence[Path]
) -> None:
    """Writes what a run still lacks, then finishes it."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    fresh_params = {_name(k): _text(v) for k, v in params.items()}
    fresh_metrics = {_name(k): float(v) for k, v in metrics.items()}
    entries = [Param(k, v) for k, v in fresh_params.items() if k not in run.data.params]
    values = [Metric(k, v, now, 0) for k, v in fresh_metrics.items() if k not in run.data.metrics]
    for start in range(0, max(len(entries), len(values)), _BATCH):
        client.log_batch(
            run.info.run_id, params=entries[start : start + _BATCH], metrics=values[start : start + _BATCH], synchronous=True
        )
    for path in report_files:
        client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id, "FINISHED")


def _name(text: str) -> str:
    """A name as MLflow takes it for parameters and metrics."""
    return re.sub(r"[^\w\-. /:]", "_", text)[:250]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _VALUE_LENGTH else text[: _VALUE_LENGTH - 1] + "…"


# Versions -------------------------------------------------------------------------------------------------------------


def versions_of(client: MlflowClient, model: str, tags: Mapping[str, str]) -> list[ModelVersion]:
    """The model's versions that carry these tags, lowest first."""
    wanted = " and ".join([f"name = '{model}'", *(f"tag.{k} = '{v}'" for k, v in tags.items())])
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version))


def _remove(client: MlflowClient, version: ModelVersion, *, keep_run: str) -> None:
    """Removes a second version of the same release; whoever else removes it at the same time is right, too."""
    with _tolerating("RESOURCE_DOES_NOT_EXIST"):
        client.delete_model_version(version.name, str(version.version))
    if version.run_id and version.run_id != keep_run:
        with _tolerating("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            client.delete_run(version.run_id)


def _aliases(client: MlflowClient, model: str) -> dict[str, int]:
    with _tolerating("RESOURCE_DOES_NOT_EXIST"):
        return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}
    return {}


def release_of(version: ModelVersion) -> int | None:
    text = version.tags.get("release", "")
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,8}", text) else None


def _stores_of(version: ModelVersion) -> tuple[str, ...]:
    try:
        urls = json.loads(version.tags.get("stores", "[]"))
    except ValueError:  # edited in MLflow
        return ()
    return tuple(map(str, urls)) if isinstance(urls, list) else ()


@contextlib.contextmanager
def _tolerating(*codes: str) -> Iterator[None]:
    """Lets MLflow's refusals of these kinds pass."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error_code(error) not in codes:
            raise
