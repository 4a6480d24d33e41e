"""A look at a checkpoint without its weights: config.json and the sizes of the weight files, for plans.

Nothing is hashed and nothing is fetched but config.json, so this costs a request or two on a hub and a directory listing on
a disk, however large the checkpoint is. What it tells is good for estimating and for nothing else: a build resolves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource
from enginepress.sources.open import open_source

WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Glance:
    """`revision`: id of the commit, empty for a folder. `weight_bytes`: of the weight files that a build would take."""

    config: dict[str, Any]
    weight_bytes: int
    revision: str


def glance(recipe_source: Source) -> Glance:
    """What a checkpoint says of itself.

    Raises:
        SourceError: not there, no access, incomplete, or its config.json is no JSON object.
    """
    source = open_source(recipe_source, cache=None)
    sizes, raw, revision = _look(source)
    where = f"{recipe_source.uri.rstrip('/')}/config.json"
    try:
        config = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"is not JSON: {error}", where=where) from None
    if not isinstance(config, dict):
        raise SourceError("is not a JSON object", where=where)
    return Glance(config, sum(size for path, size in sizes.items() if path.endswith(WEIGHTS)), revision)


def _look(source: CheckpointSource) -> tuple[dict[str, int], bytes, str]:
    from enginepress.sources.local import LocalSource

    if isinstance(source, LocalSource):
        sizes = source.sizes()  # resolving would hash every file
        return sizes, source.look_at("config.json"), ""
    revision = source.resolve()
    return {file.path: file.size for file in revision.files}, source.read(revision, "config.json"), revision.id
