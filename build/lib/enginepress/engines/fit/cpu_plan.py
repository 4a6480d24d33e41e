"""What the `onnxruntime` builder takes of a machine: memory to build and to serve, disk. ESTIMATES."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.engines.architecture import Shape, read_shape
from enginepress.engines.fit.sizes import GIB, SOURCE_BYTES
from enginepress.recipe import Recipe

ENGINE_BYTES = {"float32": 4.0, "int8": 1.0 + 4 / 32, "int4": 0.5 + 4 / 32}
"""Of one weight in the engine: ONNX Runtime's blocks of 32 have a 32-bit scale each."""

BUILD_FACTOR = {"float32": 1.2}
BUILD_FACTOR_ROUNDED = 2.5
BUILD_BYTES = int(0.6 * GIB)
"""Memory of a build by the weights' size in 32 bit, and beside it: as the builder's own message of a killed build counts
(measured with 0.25 billion parameters)."""

SERVE_BYTES = int(0.5 * GIB)
"""Of a serving process beside engine and cache."""


@dataclass(frozen=True)
class CpuPlan:
    """Bytes.

    Attributes:
        checkpoint: of its weight files.
        engine: of the engine, as built and in memory.
        cache_token: KV cache of one token, in 32 bit.
        cache: of all requests at their full length.
        build_memory, serve_memory: of the machine.
        disk: in the workspace. store: of a release.
    """

    shape: Shape
    recipe: Recipe
    checkpoint: int
    engine: int
    sequence: int
    cache_token: int
    cache: int
    build_memory: int
    serve_memory: int
    disk: int
    store: int

    @property
    def fits(self) -> bool:
        """Nothing is known of the machine, so nothing is refused for its size."""
        return True

    def to_json(self) -> dict[str, Any]:
        return {
            "fits": True,
            "builder": self.recipe.engine.builder,
            "model": {
                "architecture": self.shape.architecture,
                "parameters": self.shape.parameters,
                "context": self.shape.context,
            },
            "precision": self.recipe.engine.precision,
            "sequence": self.sequence,
            "batch": self.recipe.engine.limits.max_batch_size,
            "checkpoint": self.checkpoint,
            "engine": self.engine,
            "kv_cache_per_token": self.cache_token,
            "kv_cache": self.cache,
            "host": {
                "build_memory": self.build_memory,
                "serve_memory": self.serve_memory,
                "disk": self.disk,
                "store": self.store,
            },
            "problems": [],
            "changes": [],
            "notes": [],
        }


def cpu_plan(config: Mapping[str, Any], weight_bytes: int | None, recipe: Recipe) -> CpuPlan:
    """What the recipe takes. Pure.

    Raises:
        SourceError, UnsupportedModelError: if config.json does not say what the model is.
    """
    shape, precision, limits = read_shape(config), recipe.engine.precision, recipe.engine.limits
    number = SOURCE_BYTES.get(shape.dtype or "bfloat16", 2.0)
    checkpoint = weight_bytes if weight_bytes is not None else int(shape.parameters * number)
    in_32_bit = int(checkpoint * 4 / number)
    # The embedding stays in 32 bit; all matrices, lm_head among them, are rounded.
    rounded = shape.block_parameters + shape.embedding_parameters
    engine = int(rounded * ENGINE_BYTES.get(precision, 4.0) + 4 * (shape.embedding_parameters + shape.norm_parameters))
    sequence = limits.max_sequence_length or shape.context
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    cache = token * sequence * limits.max_batch_size
    return CpuPlan(
        shape=shape,
        recipe=recipe,
        checkpoint=checkpoint,
        engine=engine,
        sequence=sequence,
        cache_token=token,
        cache=cache,
        build_memory=int(BUILD_FACTOR.get(precision, BUILD_FACTOR_ROUNDED) * in_32_bit) + BUILD_BYTES,
        serve_memory=engine + cache + SERVE_BYTES,
        disk=checkpoint + 2 * engine,
        store=engine,
    )
