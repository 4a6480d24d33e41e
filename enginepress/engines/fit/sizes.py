"""Bytes of numbers: of weights in each precision, with their scales, and of what stands in the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginepress.recipe import Precision

GIB = 2**30
MIB = 2**20
GB = 10**9

WEIGHT_BYTES: dict[Precision, float] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "int8_sq": 1,
    "fp8": 1,
    "int4": 0.5,
    # A 16-bit scale and, cautiously, a 16-bit zero for each group of 128 (quantize.py: --awq_block_size 128).
    "int4_awq": 0.5 + 4 / 128,
    "w4a8_awq": 0.5 + 4 / 128,
    # An 8-bit scale for each block of 16 (NVIDIA Model Optimizer, NVFP4).
    "nvfp4": 0.5 + 1 / 16,
}
"""Of one weight of a matrix inside a layer. Scales of one number a row or a tensor are left out: less than a thousandth."""

SOURCE_BYTES = {"float32": 4.0, "float64": 8.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0}
"""Of one number in a checkpoint, by config.json's `dtype`."""

CACHE_BYTES = {"fp8": 1.0, "int8": 1.0, "nvfp4": 0.5 + 1 / 16}

QUANTIZED_BYTES = {
    "fp8": 1.0,
    "fbgemm_fp8": 1.0,
    "modelopt": 1.0,
    "compressed-tensors": 1.0,
    "awq": 0.5 + 4 / 128,
    "gptq": 0.5 + 4 / 128,
    "bitsandbytes": 1.0,
    "mxfp4": 0.5 + 1 / 32,
}
"""Of one weight in a checkpoint that is quantized already, by `quant_method`, where the sizes of its files are not known."""


def quantized_as(quantization: Mapping[str, Any] | None) -> Precision | None:
    """What a checkpoint's own `quantization_config` asks of the hardware, as one of our precisions; None if nothing known.

    Enough to refuse a GPU that cannot compute in it; whether a builder takes such a checkpoint is for the builder to say.
    """
    if quantization is None:
        return None
    method = str(quantization.get("quant_method", "")).lower()
    algorithm = str(quantization.get("quant_algo") or quantization.get("format") or "").lower()
    if "nvfp4" in algorithm or "nvfp4" in method:
        return "nvfp4"
    if method in ("fp8", "fbgemm_fp8") or algorithm.startswith("fp8") or algorithm == "float-quantized":
        return "fp8"
    if "w4a8" in algorithm:
        return "w4a8_awq"
    if method in ("awq", "gptq") or "awq" in algorithm or algorithm == "pack-quantized":
        return "int4_awq"
    return None


def is_quantized(precision: Precision) -> bool:
    return WEIGHT_BYTES[precision] < 2


def activation_bytes(precision: Precision) -> int:
    """Of one number between layers. Quantized engines compute in 16 bit between their matrices."""
    return 4 if precision == "float32" else 2


def embedding_bytes(precision: Precision) -> int:
    """Of one number of the embeddings, norms and choosers of experts, which no precision here quantizes: convert scripts and
    ModelOpt leave the input embedding and lm_head alone unless told otherwise (quantize.py: --quantize_lm_head)."""
    return 4 if precision == "float32" else 2


def cache_bytes(kv_cache: str | None, precision: Precision) -> float:
    """Of one number in the KV cache."""
    return CACHE_BYTES[kv_cache] if kv_cache is not None else activation_bytes(precision)


def gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"


def mib(number: float) -> str:
    return f"{number / MIB:.0f} MiB"


def gb(number: float) -> str:
    """For weights, which people count in GB."""
    return f"{number / GB:.0f} GB" if number >= 10 * GB else f"{number / GB:.1f} GB"
