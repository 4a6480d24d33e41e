"""A release's model repository as a folder on this machine: the store's own, or a verified copy in the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.stores.store import Store
from enginepress.workspace import Workspace


def release_folder(store: Store, model: str, number: int, workspace: Workspace) -> Path:
    """Where the release can be read. A store that is no folder is copied from once; the copy is kept under the manifest's digest.

    Raises:
        StoreError: no such release, or its bytes are not those of its manifest.
    """
    folder = store.repository(model, number)
    if folder is not None:
        return folder
    manifest = store.manifest(model, number)

    def fetch(target: Path) -> dict[str, Any]:
        store.fetch(model, number, target)
        return {"model": model, "release": number, "store": store.url, "content_digest": manifest.content_digest}

    return workspace.produce("releases", manifest.digest, fetch, about=f"fetching release {number} of {model}").folder
