"""A look at a checkpoint without its weights: config.json and the sizes of the weight files, for plans.

Nothing is hashed and nothing is fetched but config.json, so this costs a request or two on a hub and a directory listing on
a disk, however large the checkpoint is. What it tells is good for estimating and for nothing else: a build resolves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginepress.recipe import Source
from enginepress.sources import CheckpointSource
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source

WEIGHTS = (".safetensors", ".bin")
QUANTIZATION = "hf_quant_config.json"


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
    sizes, raw, quantization, revision = _look(source)
    config = model_settings(raw, quantization, where=recipe_source.uri.rstrip("/"))
    return Glance(config, sum(size for path, size in sizes.items() if path.endswith(WEIGHTS)), revision)


def _look(source: CheckpointSource) -> tuple[dict[str, int], bytes, bytes | None, str]:
    """Sizes of files, config.json, hf_quant_config.json if there is one, and the revision's id."""
    from enginepress.sources.local import LocalSource

    if isinstance(source, LocalSource):
        sizes = source.sizes()  # resolving would hash every file
        return sizes, source.look_at("config.json"), source.look_at(QUANTIZATION) if QUANTIZATION in sizes else None, ""
    revision = source.resolve()
    sizes = {file.path: file.size for file in revision.files}
    quantization = source.read(revision, QUANTIZATION) if QUANTIZATION in sizes else None
    return sizes, source.read(revision, "config.json"), quantization, revision.id
