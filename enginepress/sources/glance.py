"""A look at a checkpoint without its weights: config.json and the sizes of the weight files, for plans.

Nothing is hashed and nothing is fetched but config.json, so this costs a request or two on a hub and a directory listing on
a disk, however large the checkpoint is. What it tells is good for estimating and for nothing else: a build resolves.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.recipe import Source
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
    """What a checkpoint says of itself.

    Raises:
        SourceError: not there, no access, incomplete, or its config.json is no JSON object.
    """
    from enginepress.sources.local import LocalSource

    source = open_source(recipe_source, cache=None)
    if isinstance(source, LocalSource):
        files, unused = source.sizes()  # resolving would hash every file
        read, revision = source.look_at, ""
    else:
        resolved = source.resolve()
        files, unused = {file.path: file.size for file in resolved.files}, resolved.unused
        read, revision = functools.partial(source.read, resolved), resolved.id
    config = model_settings(
        read("config.json"),
        read(QUANTIZATION) if QUANTIZATION in files else None,
        where=recipe_source.uri.rstrip("/"),
    )
    return Glance(config, files, unused, revision)
