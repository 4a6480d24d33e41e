"""A look at a checkpoint without its weights: config.json and the sizes of the weight files, for plans.

Nothing is hashed and nothing is fetched but config.json, so this costs a request or two on a hub and a directory listing on
a disk, however large the checkpoint is. What it tells is good for estimating and for nothing else: a build resolves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.lockfile import check_revision, parse_lock
from enginepress.recipe import Source
from enginepress.sources import Digest, RemoteFile, Revision
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source

WEIGHTS = (".safetensors", ".bin")
QUANTIZATION = "hf_quant_config.json"


@dataclass(frozen=True)
class Glance:
    """A checkpoint seen from afar.

    Attributes:
        config: config.json, with how the weights are quantized (`model_settings`).
        files: bytes of each file that a build would take, by path.
        unused: paths that it would leave where they are.
        revision: id of the commit, empty for a folder.
    """

    config: dict[str, Any]
    files: Mapping[str, int]
    unused: tuple[str, ...]
    revision: str

    @property
    def weight_bytes(self) -> int:
        return sum(size for path, size in self.files.items() if path.endswith(WEIGHTS))


def glance(recipe_source: Source) -> Glance:
    """What a checkpoint says of itself: the one that a run would build, so a locked one where there is a lock.

    Raises:
        SourceError: not there, no access, incomplete, its config.json is no JSON object, or not what the lock says.
    """
    from enginepress.sources.local import LocalSource

    source = open_source(recipe_source, cache=None)
    lock = parse_lock(recipe_source.lock) if recipe_source.lock is not None else None
    read: Callable[[str], bytes]
    if isinstance(source, LocalSource):
        files, unused = source.sizes()  # resolving would hash every file
        read, revision = source.look_at, ""
        if lock is not None:
            check_revision(lock, _as_far_as_seen(lock.revision, files), where=recipe_source.uri)
            read = functools.partial(source.read, lock.revision)
    else:
        resolved = source.resolve() if lock is None else lock.revision
        files, unused = {file.path: file.size for file in resolved.files}, resolved.unused
        read, revision = functools.partial(source.read, resolved), resolved.id
    config = model_settings(
        read("config.json"),
        read(QUANTIZATION) if QUANTIZATION in files else None,
        where=recipe_source.uri.rstrip("/"),
    )
    return Glance(config, files, unused, revision)


def _as_far_as_seen(locked: Revision, sizes: Mapping[str, int]) -> Revision:
    """A folder whose files were not read: of a file that has the locked size, the locked digest is assumed."""
    known = {file.path: file for file in locked.files}
    unread = Digest("none", "")
    files = [RemoteFile(p, s, known[p].digest if p in known and known[p].size == s else unread) for p, s in sizes.items()]
    return Revision(locked.source, locked.id, tuple(files))
