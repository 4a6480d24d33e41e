"""config.json as both transformers 4 and transformers 5 look for it: the rotary embedding, and the type of the weights.

Version 5 writes `rope_parameters` and `dtype` only. A reader that looks for `rope_theta`, `rope_scaling` and
`partial_rotary_factor`, as containers with version 4 do, would take base 10000, no scaling and whole heads: a model that runs and
answers wrongly. One that looks for `torch_dtype` takes 32 bits, and makes float16 of a bfloat16 model.

Names: huggingface/transformers, `PreTrainedConfig.standardize_rope_params` and `RotaryEmbeddingConfigMixin` (5), and the
configuration classes of 4 (gpt_neox: `rotary_emb_base`, `rotary_pct`; gemma3_text: `rope_local_base_freq`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""Kinds of layers that have rotary parameters of their own in Gemma 3."""


def both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the names of transformers 4 added, where one set of rotary parameters is for all layers, or it is
    Gemma 3. Of a model of text and images also the text's part."""
    both = dict(config)
    if isinstance(text := config.get("text_config"), Mapping):
        both["text_config"] = both_spellings(text)
    for one, other in (("dtype", "torch_dtype"), ("torch_dtype", "dtype")):
        if config.get(one) is not None and config.get(other) is None:
            both[other] = config[one]
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return both
    if _by_layer(parameters):
        if not _is_gemma3(config):
            return both
        local = parameters[LOCAL]
        if local.get("rope_theta") is not None:
            both["rope_local_base_freq"] = local["rope_theta"]
        parameters = parameters[GLOBAL]
    values = {key: value for key, value in parameters.items() if key not in ("rope_theta", "partial_rotary_factor")}
    neox = config.get("model_type") == "gpt_neox"
    for key, old in (
        ("rope_theta", "rotary_emb_base" if neox else "rope_theta"),
        ("partial_rotary_factor", "rotary_pct" if neox else "partial_rotary_factor"),
    ):
        if parameters.get(key) is not None:
            both[old] = parameters[key]
    kind = values.get("rope_type", values.get("type", "default"))
    both["rope_scaling"] = None if kind == "default" else {"type": kind, **values}
    return both


def only_new_readers(config: Mapping[str, Any]) -> bool:
    """Whether transformers 4 would silently take defaults for this rotary embedding, and there is no old spelling for it."""
    parameters = config.get("rope_parameters")
    return isinstance(parameters, dict) and _by_layer(parameters) and not _is_gemma3(config) and config.get("rope_theta") is None


def _by_layer(parameters: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in parameters.values())


def _is_gemma3(config: Mapping[str, Any]) -> bool:
    parameters = config.get("rope_parameters")
    return (
        str(config.get("model_type", "")).startswith("gemma3")
        and isinstance(parameters, dict)
        and all(isinstance(parameters.get(kind), dict) for kind in (GLOBAL, LOCAL))
    )
