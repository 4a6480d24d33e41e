"""The few things that conversion and build need to know of a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_sequence_length", "n_ctx")
_COMPUTED = ("float16", "bfloat16")


def context_of(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model was made for, or None if config.json does not say it."""
    for name in _CONTEXT:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Tokens that a sequence may have at most: with a rotary embedding that is stretched, more than `context_of`.

    As trtllm-build counts (tensorrt_llm/builder.py: `_init_max_seq_len`), but where config.json has the stretched number already.
    """
    context = context_of(config)
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if context is None or not isinstance(scaling, Mapping):
        return context
    kind = scaling.get("rope_type") or scaling.get("type")
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if kind not in ("linear", "dynamic", "yarn") or not isinstance(factor, (int, float)) or isinstance(factor, bool):
        return context
    if isinstance(original, int) and context > original:
        return context
    return int(context * max(factor, 1))


def compute_type(config: Mapping[str, Any], precision: str) -> str:
    """What is not quantized is computed in this: the recipe's precision where that is one, else the checkpoint's own type,
    where float32 becomes float16 as the tools' `auto` does it."""
    if precision in ("float32", "float16", "bfloat16"):
        return precision
    written = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return written if written in _COMPUTED else "float16"
