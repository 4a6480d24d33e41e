"""What people wrote into MLflow beside what enginepress registers: descriptions, tags, aliases. For backups.

The releases themselves are registered anew from the store; versions get new numbers then, and say which they had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from enginepress.mlflow_access import error_code, session, shown

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

    from enginepress.recipe import Registry

OURS = ("release", "build_key", "manifest_digest", "revision", "stores")
"""Tags that registering a release sets."""

BEFORE = "restored_from"
"""Tag of a restored version: which version of which MLflow it was."""


def read_entries(settings: Registry, uri: str, model: str) -> dict[str, Any] | None:
    """Everything about the registered model; None if it is not registered.

    Raises:
        RegistryError: if MLflow cannot be reached.
    """
    from enginepress.registry import release_of, versions_of

    with session(uri, settings, doing=f"reading the registered model {model}") as client:
        registered = _registered(client, model)
        if registered is None:
            return None
        aliases = {alias: int(version) for alias, version in registered.aliases.items()}
        return {
            "tracking_uri": shown(uri),
            "description": registered.description or "",
            "tags": dict(registered.tags),
            "versions": [
                {
                    "version": int(version.version),
                    "release": release_of(version),
                    "manifest_digest": version.tags.get("manifest_digest", ""),
                    "description": version.description or "",
                    "tags": {k: v for k, v in version.tags.items() if k not in OURS},
                    "aliases": sorted(a for a, v in aliases.items() if v == int(version.version)),
                }
                for version in versions_of(client, model, {})
            ],
        }


def write_entries(settings: Registry, uri: str, model: str, entries: Mapping[str, Any]) -> int:
    """Writes them beside the versions that stand for the same releases. Doing it twice is doing it once. Returns their number."""
    from enginepress.registry import versions_of

    done = 0
    with session(uri, settings, doing=f"restoring the registered model {model}") as client:
        registered = _registered(client, model)
        if registered is None:
            return 0
        if entries["description"] and not registered.description:
            client.update_registered_model(model, entries["description"])
        for key, value in entries["tags"].items():
            client.set_registered_model_tag(model, key, value)
        for entry in entries["versions"]:
            same = {"release": str(entry["release"]), "manifest_digest": entry["manifest_digest"]}
            found = versions_of(client, model, same) if entry["release"] is not None else []
            if not found:
                continue
            version = found[0]
            before = entry["tags"].get(BEFORE) or f"version {entry['version']} of {entries['tracking_uri']}"
            for key, value in {**entry["tags"], BEFORE: before}.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(model, version.version, key, value)
            if entry["description"] and not version.description:
                client.update_model_version(model, version.version, entry["description"])
            for alias in entry["aliases"]:
                if str(registered.aliases.get(alias, "")) != str(version.version):
                    client.set_registered_model_alias(model, alias, str(version.version))
            done += 1
    return done


def entries_of(record: Any) -> dict[str, Any] | None:
    """The entries in a backup, if they are of the form that `read_entries` gives."""
    wanted = {"tracking_uri": str, "description": str, "tags": dict, "versions": list}
    if not isinstance(record, dict) or any(not isinstance(record.get(k), kind) for k, kind in wanted.items()):
        return None
    return json.loads(json.dumps(record))  # type: ignore[no-any-return]


def _registered(client: MlflowClient, model: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(model)
    except MlflowException as error:
        if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
