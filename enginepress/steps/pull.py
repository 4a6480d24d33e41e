"""pull: a release as a folder on a reader's disk, verified, placed for that folder, changed to another one in one rename.

For init containers (`--once`, the default) and sidecars (`--watch`, `enginepress.steps.watch_channel`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import StoreError, UsageError
from enginepress.manifest import Manifest
from enginepress.quantities import size_text
from enginepress.recipe_file import absolute_file_url
from enginepress.repository import Placement
from enginepress.repository.place import place
from enginepress.signing import Trust
from enginepress.steps.meter import Meter
from enginepress.steps.signing import require_signature, stored_trust
from enginepress.stores.open import open_url
from enginepress.stores.pulled import Pulled, PulledFolder
from enginepress.stores.store import Progress, Store


@dataclass(frozen=True)
class PullResult:
    """What a pull did.

    Attributes:
        folder: what a server names as its model repository: the link, not what it leads to now.
        changed: whether the folder led elsewhere before.
    """

    model: str
    release: int
    channel: str | None
    folder: Path
    changed: bool
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "release": self.release,
            "channel": self.channel,
            "repository": str(self.folder),
            "changed": self.changed,
            "content_digest": self.manifest.content_digest,
            "manifest_digest": self.manifest.digest,
        }


def open_reader_store(url: str) -> Store:
    """The store at a URL, or in a folder that is named without file://.

    Raises:
        RecipeError: for a kind of store that there is not.
    """
    named = absolute_file_url(url.rstrip("/") if "://" in url else f"file://{url}", Path.cwd())
    return open_url(named)


def reader_folder(folder: Path, *, root: str | None, grace_s: float, keep: int) -> PulledFolder:
    """The folder of one reader; see `PulledFolder`."""
    return PulledFolder(folder, place=_placed, root=root, grace_s=grace_s, keep=keep)


def _placed(repository: Path, number: int, root: str) -> Placement:
    return place(repository, number, root, side_by_side=True)


def wanted_release(store: Store, model: str, channel: str) -> int:
    """The release that a channel names.

    Raises:
        StoreError: if there is no such channel; says which there are.
    """
    number = store.channel(model, channel)
    if number is None:
        if not store.numbers(model):
            models = ", ".join(store.models())
            raise StoreError(
                f"holds no model '{model}'" if models else "holds no models",
                where=store.url,
                fix=f"there are: {models}" if models else "name a store that `enginepress run` has published to; is it mounted?",
            )
        known = ", ".join(f"{c} (release {n})" for c, n in store.channels(model).items())
        raise StoreError(
            f"{model} has no channel '{channel}'",
            where=store.url,
            fix=f"channels are: {known}" if known else "`enginepress releases TARGET` lists what is published",
        )
    return number


def release_manifest(store: Store, model: str, number: int, trust: Trust | None = None) -> Manifest:
    """The manifest that a reader is going to believe. Whatever a reader demands of a release is checked here, before its bytes.

    Args:
        trust: whose signature it must carry; None: what the store's own recipe demands.

    Raises:
        StoreError: no such release, or a damaged manifest.
        SignatureError: it is not signed by whom it must be.
    """
    manifest = store.manifest(model, number)
    require_signature(store, model, number, trust or stored_trust(store, model))
    if store.manifest(model, number).digest != manifest.digest:
        raise StoreError(f"release {number} of {model} was replaced while it was looked at", where=store.url, fix="pull again")
    return manifest


def pull_release(
    store: Store,
    model: str,
    number: int,
    target: PulledFolder,
    *,
    channel: str | None = None,
    trust: Trust | None = None,
    told: Callable[[str], None] = lambda _line: None,
    progress: Callable[[Meter], None] = lambda _meter: None,
) -> PullResult:
    """Makes the folder hold this release. What is there already is kept, and nothing is done if all of it is.

    Args:
        trust: whose signature the release must carry; None: what the store's own recipe demands.
        progress: called with how far the fetch is, several times a second. What it raises ends the fetch; the next one goes on.

    Raises:
        StoreError: no such release, bytes that are not those of its manifest, disk full. The folder keeps what it had.
        UsageError: a folder that lies in the store, or that another model's release is in.
        SignatureError: it is not signed by whom it must be.
    """
    _check_apart(store, target.folder)
    manifest = release_manifest(store, model, number, trust)
    before = target.current()
    _check_one_model(target, model)

    def fetch(folder: Path, count: Progress) -> Manifest:
        told(f"fetching release {number} of {model}: {size_text(manifest.size)}, {len(manifest.files)} files")
        return store.fetch(model, number, folder, progress=count)

    now: Pulled = target.pull(
        manifest,
        fetch,
        progress=_metered(manifest.size, progress),
        on_wait=lambda holder: told(f"waiting for {holder}, who pulls into this folder"),
    )
    changed = before is None or before.folder != now.folder
    return PullResult(model, number, channel, target.current_link, changed, manifest)


def _check_one_model(target: PulledFolder, model: str) -> None:
    """Two pullers of two models would turn one folder's link back and forth."""
    now = target.current()
    try:
        other = target.manifest(now).model if now is not None else model
    except StoreError:
        return  # damaged: it is made anew
    if other != model:
        raise UsageError(
            f"holds a release of {other}, not of {model}",
            where=str(target.folder),
            fix=f"name a folder of its own for {model} with --to; to have it here instead, remove this one first",
        )


def _check_apart(store: Store, folder: Path) -> None:
    """A reader's folder in a store would be taken for a part of it, and cleaned by two masters."""
    scheme, _, rest = store.url.partition("://")
    if scheme == "file" and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(rest)):
        raise UsageError(f"lies in the store {store.url}", where=str(folder), fix="name a folder of its own with --to")


def _metered(total: int, progress: Callable[[Meter], None]) -> Progress:
    done, meter = 0, Meter(total)

    def count(moved: int) -> None:
        nonlocal done
        done += moved
        meter.note("", done)
        progress(meter)

    return count
