"""What converting and building need of the machine: memory and disk. ESTIMATES, each with what it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from enginepress.engines.fit.sizes import GIB, is_quantized
from enginepress.engines.fit.weights import Weights
from enginepress.recipe import Recipe

PROCESS_BYTES = 4 * GIB
"""Python with torch and TensorRT-LLM. (TensorRT's builder alone maps 2 GB, as its logs say.)"""

MODELOPT_FACTOR = 2.2
"""Memory of a conversion with ModelOpt, by the checkpoint's size: the limit that this project's own benchmark holds."""

SPARE = 1.1

MEASURED = ("fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq")
"""Precisions that are made with texts."""


@dataclass(frozen=True)
class Host:
    """Bytes.

    Attributes:
        convert_memory: 0 if nothing is converted.
        convert_gpu_memory: of all GPUs together, for a quantization that runs there; 0 otherwise.
        build_memory: 0 if nothing is built.
        disk: in the workspace, for checkpoint, converted checkpoint and engine.
        store: of a release in each store.
    """

    convert_memory: int
    convert_gpu_memory: int
    build_memory: int
    disk: int
    store: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _workers(recipe: Recipe) -> int:
    """Processes of trtllm-build: each reads a rank and serializes an engine of its size. One a GPU, unless the recipe says it."""
    engine = recipe.engine
    said = engine.options.build.get("workers")
    here = engine.parallelism.world_size if engine.gpu is None else min(engine.parallelism.world_size, engine.gpu.count)
    return said if type(said) is int and said > 0 else here


def _measures_on_gpu(recipe: Recipe) -> bool:
    """Whether the container's tools load the model onto GPUs, to measure activations with texts. Rounding of weights and FP8 by
    rows are done by convert_checkpoint.py, in host memory."""
    engine, options = recipe.engine, recipe.engine.options.convert
    if engine.converter == "modelopt" or "cpu" in (options.get("device"), options.get("device_map")):
        return False
    by_rows = engine.precision == "fp8" and options.get("use_fp8_rowwise", False) is not False
    return engine.kv_cache is not None or (engine.precision in MEASURED and not by_rows)


def host_of(recipe: Recipe, weights: Weights, *, quantized: bool) -> Host:
    """Args:
    quantized: the checkpoint is quantized already and stays as it is.
    """
    engine = recipe.engine
    quantizes = is_quantized(engine.precision) and not quantized
    if engine.builder == "tensorrt_llm":
        by_tool = engine.converter == "modelopt"
        # convert_checkpoint.py holds the checkpoint and one rank at a time (its default is one worker).
        convert = int(weights.checkpoint * (MODELOPT_FACTOR if by_tool else SPARE)) + (0 if by_tool else weights.rank)
        # 70B in BF16 to FP8 needs its 140 GB and 70 more on GPUs (workflow.md).
        on_gpu = weights.checkpoint + weights.total if not quantized and _measures_on_gpu(recipe) else 0
        # Rounded to int8 or int4 only while trtllm-build loads it: ModelOpt leaves 16 bits in the checkpoint.
        later = by_tool and engine.precision in ("int8", "int4")
        converted = max(weights.ranks, weights.checkpoint) if later else weights.ranks
        return Host(
            convert_memory=convert + PROCESS_BYTES,
            convert_gpu_memory=on_gpu,
            build_memory=_workers(recipe) * (2 * weights.rank + PROCESS_BYTES),
            disk=int((weights.checkpoint + converted + weights.ranks) * SPARE),
            store=weights.ranks,
        )
    if engine.builder == "llmapi" and quantizes:
        memory = int(weights.checkpoint * MODELOPT_FACTOR) + PROCESS_BYTES
        return Host(memory, 0, 0, int((weights.checkpoint + weights.total) * SPARE), weights.total)
    return Host(0, 0, 0, weights.checkpoint, weights.checkpoint)
