"""A converted checkpoint's config.json against the one that it was made of.

A conversion that loses the base of the rotary embedding, or its scaling, makes a model that builds, runs and answers wrongly:
TensorRT-LLM takes 10000 and no scaling for what is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, architecture_name
from enginepress.errors import BuildError

_SHAPES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_ROTARY_BASE = ("llama", "qwen", "gemma", "phi")
"""Families whose checkpoints name it `rotary_base`."""

_BASES = ("rotary_base", "rotary_emb_base")
_SHARES = ("rotary_pct", "partial_rotary_factor")
"""Names in converted checkpoints; the second are those of GPT-NeoX and Phi (tensorrt_llm/models/gptneox, phi)."""

_ROTARY_SCALING = ("llama", "qwen")
_SCALING_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_OWN_ROTARY = ("Gemma3ForCausalLM",)
"""Has two bases, whose names in a converted checkpoint were not seen."""

_NO_SCALING = (None, "default")
DEFAULT_BASE = 10000.0


def check_converted(source: Mapping[str, Any], converted: Mapping[str, Any], *, where: Path) -> None:
    """Raises BuildError naming the first thing that differs, with both values.

    Args:
        source: config.json of the Hugging Face checkpoint.
        converted: config.json of the TensorRT-LLM checkpoint made of it.
    """
    name = architecture_name(source)
    family = "" if name in _OWN_ROTARY else ARCHITECTURES[name].family
    pairs: list[tuple[str, Any, Any]] = [
        (key, source[key], converted[key]) for key in _SHAPES if key in source and key in converted
    ]
    theta, scaling = _rotary(source)
    base = _first(converted, _BASES)
    if theta is not None and (family in _ROTARY_BASE or (base is not None and name not in _OWN_ROTARY)):
        pairs.append(("rotary_base", theta, DEFAULT_BASE if base is None else _number(base)))
    rotated, share = _rotated(source), _first(converted, _SHARES)
    if rotated is not None and share is not None:
        pairs.append(("rotary_pct", rotated, _number(share)))
    if family in _ROTARY_SCALING:
        found = converted.get("rotary_scaling")
        pairs.append(("rotary_scaling", _kind(scaling), _kind(found)))
        pairs += [
            (f"rotary_scaling.{key}", _number(scaling[key]), _number(found.get(key)))
            for key in _SCALING_NUMBERS
            if isinstance(scaling, Mapping) and isinstance(found, Mapping) and _kind(scaling) and scaling.get(key) is not None
        ]
    for key, wanted, made in pairs:
        numbers = isinstance(wanted, float) and isinstance(made, float)
        if not (math.isclose(wanted, made, rel_tol=1e-6) if numbers else wanted == made):
            raise BuildError(
                f"the converted checkpoint is another model: {key} is {made}, and the checkpoint says {wanted}",
                where=str(where / "config.json"),
                fix="take NVIDIA's image as it is: its transformers belongs to its TensorRT-LLM; or use engine.builder: llmapi",
            )


def _rotary(config: Mapping[str, Any]) -> tuple[float | None, Any]:
    """Base and scaling, in the old spelling or in that of transformers 5."""
    parameters = config.get("rope_parameters")
    scaling = config.get("rope_scaling")
    theta = config.get("rope_theta", config.get("rotary_emb_base"))
    if isinstance(parameters, Mapping):
        theta = parameters.get("rope_theta", theta)
        scaling = scaling or parameters
    if not isinstance(theta, (int, float)) or isinstance(theta, bool):
        theta = None
    return (None if theta is None else float(theta)), scaling


def _rotated(config: Mapping[str, Any]) -> float | None:
    """The share of a head that is rotated, where config.json says it."""
    parameters = config.get("rope_parameters")
    inner = parameters.get("partial_rotary_factor") if isinstance(parameters, Mapping) else None
    value = _number(inner if inner is not None else config.get("partial_rotary_factor", config.get("rotary_pct")))
    return value if isinstance(value, float) else None


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _kind(scaling: Any) -> str | None:
    if not isinstance(scaling, Mapping):
        return None
    kind = scaling.get("rope_type") or scaling.get("type")
    return None if kind in _NO_SCALING else str(kind)
