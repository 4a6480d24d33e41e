"""What a TensorRT-LLM config.json must say of a model, worked out from the checkpoint's config.json alone.

ModelOpt fills most of it, but not all: beside transformers 5 it leaves out the rotary base and scaling, never writes
`attn_bias`, `qwen_type` or Granite's multipliers, and TensorRT-LLM then takes defaults (10000, no biases, 1.0), which gives a
model that loads and answers wrongly. So the fields are made here, compared with what ModelOpt wrote, and written.

Only families stand here whose tensors and fields were put through an independent forward pass and compared with
transformers' logits (tests/modelopt/test_numbers.py). Names and defaults are those that TensorRT-LLM's classes read:
NVIDIA/TensorRT-LLM, tensorrt_llm/models/llama/config.py and qwen/config.py (rotary_base, rotary_scaling, attn_bias, mlp_bias,
qwen_type, seq_length, embedding_multiplier, …), models/modeling_utils.py (PretrainedConfig), layers/attention.py (how
rotary_scaling is read) and functional.py (RopeEmbeddingUtils: what each kind of scaling computes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from enginepress.errors import SourceError

WHERE = "config.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """One architecture that is converted.

    Attributes:
        model_type: what config.json must call it, since transformers goes by this.
        decoder: ModelOpt's name for this kind of decoder.
        models: well-known models of it, for the docs.
        extra: fields that only this family has, from config.json and the head size.
        query_key_norms: q and k are normalised by head (Qwen3).
    """

    model_type: str
    decoder: str
    models: str
    extra: Callable[[Mapping[str, Any], int], dict[str, Any]]
    query_key_norms: bool = False


# ------------------------------------------------------------------------------------------------------------------
# The families
# ------------------------------------------------------------------------------------------------------------------


def _llama(config: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    return {"attn_bias": _flag(config, "attention_bias"), "mlp_bias": _flag(config, "mlp_bias")}


def _mistral(config: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    return {"attn_bias": False, "mlp_bias": False}


def _qwen(kind: str, *, biases: bool) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    # seq_length is read, but without use_logn_attn it changes nothing; 8192 is what TensorRT-LLM itself writes.
    fields = {"attn_bias": biases, "mlp_bias": False, "qwen_type": kind, "seq_length": 8192, "use_logn_attn": False}
    return lambda config, head_size: dict(fields)


def _granite(config: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    attention = _number(config, "attention_multiplier", 1.0)
    return {
        **_llama(config, head_size),
        "embedding_multiplier": _number(config, "embedding_multiplier", 1.0),
        # TensorRT-LLM divides by √head_size in any case; 1.0 means nothing else.
        "attention_multiplier": attention * math.sqrt(head_size),
        "residual_multiplier": _number(config, "residual_multiplier", 1.0),
        "output_multiplier_scale": 1.0 / _number(config, "logits_scaling", 1.0),
    }


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", "llama", "Llama 1 to 3.3, TinyLlama, SmolLM2, Vicuna, Yi", _llama),
    "MistralForCausalLM": Family("mistral", "llama", "Mistral 7B v0.2 and later, Mistral Nemo", _mistral),
    "Qwen2ForCausalLM": Family("qwen2", "qwen", "Qwen2, Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen", _qwen("qwen2", biases=True)),
    "Qwen3ForCausalLM": Family("qwen3", "qwen", "Qwen3 (dense)", _qwen("qwen3", biases=False), query_key_norms=True),
    "GraniteForCausalLM": Family("granite", "llama", "Granite 3", _granite),
}

REFUSED: dict[str, str] = {
    "MixtralForCausalLM": "ModelOpt 0.47 does not understand how transformers 5 keeps its experts",
    "Qwen2MoeForCausalLM": "ModelOpt 0.47 does not understand how transformers 5 keeps its experts",
    "Qwen3MoeForCausalLM": "ModelOpt 0.47 does not understand how transformers 5 keeps its experts",
    "GraniteMoeForCausalLM": "ModelOpt 0.47 does not understand how transformers 5 keeps its experts",
    "GemmaForCausalLM": "whether TensorRT-LLM reads ModelOpt's config of it rightly is not verified",
    "Gemma2ForCausalLM": "ModelOpt writes no TensorRT-LLM checkpoint of it any more",
    "Gemma3ForCausalLM": "ModelOpt writes its config without TensorRT-LLM's fields for layers with a window",
    "Phi3ForCausalLM": "ModelOpt writes no TensorRT-LLM checkpoint of it any more",
}
"""Named, because they are asked for; everything else that is not in `FAMILIES` is refused as well."""


def model_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a TensorRT-LLM config.json that describe the model.

    Args:
        config: a checkpoint's config.json, or transformers' reading of it; old and new spellings of the rotary embedding.
            Its architecture is one of `FAMILIES`.

    Raises:
        SourceError: for a value that is missing, wrong, or not known to come out right.
    """
    shape = shape_fields(config)
    extra = FAMILIES[shape["architecture"]].extra(config, shape["head_size"])
    return {**shape, "position_embedding_type": "rope_gpt_neox", **rotary_fields(config), **extra}


def shape_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say nothing of the rotary embedding, nor what one family only has.

    Raises:
        SourceError: for a value that is missing, wrong, or not known to come out right.
    """
    architecture = _architecture(config)
    family = FAMILIES[architecture]
    if config.get("model_type") != family.model_type:
        raise SourceError(
            f"'model_type' is {config.get('model_type')!r}, and {architecture} goes with '{family.model_type}'", where=WHERE
        )
    heads = _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    hidden = _size(config, "hidden_size")
    if heads % kv_heads:
        raise SourceError(f"{heads} attention heads cannot share {kv_heads} key and value heads", where=WHERE)
    if config.get("head_dim") is None and hidden % heads:
        raise SourceError(f"'hidden_size' {hidden} is no multiple of 'num_attention_heads' {heads}", where=WHERE)
    head_size = _size(config, "head_dim", hidden // heads)
    activation = _typed(config, "hidden_act", str, None)
    if activation not in ("silu", "swish"):
        raise SourceError(
            f"'hidden_act' is {activation!r}; for {architecture} only 'silu' was verified", where=WHERE, fix=USE_IMAGE
        )
    if family.query_key_norms and _flag(config, "attention_bias"):
        raise SourceError("'attention_bias' is true, which TensorRT-LLM leaves out for Qwen3", where=WHERE)
    return {
        "architecture": architecture,
        "num_hidden_layers": _size(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "head_size": head_size,
        "intermediate_size": _size(config, "intermediate_size"),
        "vocab_size": _size(config, "vocab_size"),
        "max_position_embeddings": _size(config, "max_position_embeddings"),
        "hidden_act": activation,
        "norm_epsilon": _number(config, "rms_norm_eps"),
    }


USE_IMAGE = "set engine.converter to 'image', so that TensorRT-LLM's own script converts it in the container"


# ------------------------------------------------------------------------------------------------------------------
# Rotary embedding
# ------------------------------------------------------------------------------------------------------------------

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_KNOWN = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", *_LLAMA3})


def rotary_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rotary_base`, `rotary_scaling` and `rotary_pct`, which ModelOpt drops or takes from where they no longer stand.

    Raises:
        SourceError: for a kind of rotary embedding that is not known to come out right.
    """
    parameters = _typed(config, "rope_parameters", dict, None)
    scaling = _typed(config, "rope_scaling", dict, None)
    values: Mapping[str, Any] = parameters or scaling or {}
    kind = _rope_kind(values)
    if any(isinstance(value, dict) for value in values.values()):
        raise _wrong_rope("it differs between layers")
    if unknown := sorted(set(values) - _KNOWN):
        raise _wrong_rope(f"'{unknown[0]}' in its parameters ({kind}) is not known here")
    if parameters and scaling and _kind_and_numbers(parameters) != _kind_and_numbers(scaling):
        raise _wrong_rope("'rope_parameters' and 'rope_scaling' say different things")
    for source in (values, config):
        if _number(source, "partial_rotary_factor", 1.0) != 1.0:
            raise _wrong_rope("only a part of each head is rotated ('partial_rotary_factor')")
    base = _number(values if values.get("rope_theta") is not None else config, "rope_theta", 10000.0)
    if base <= 0:
        raise _wrong_rope(f"its base is {base}")
    rotary: dict[str, Any] = {"rotary_base": base, "rotary_scaling": None, "rotary_pct": 1.0}
    if kind == "default":
        return rotary
    if kind == "linear":
        factor = _number(values, "factor")
        if factor < 1:
            raise _wrong_rope(f"its factor is {factor}, and must be 1 or more")
        return {**rotary, "rotary_scaling": {"type": "linear", "rope_type": "linear", "factor": factor}}
    if kind == "llama3":
        numbers = {name: _number(values, name) for name in _LLAMA3}
        if not 0 < numbers["low_freq_factor"] < numbers["high_freq_factor"] or numbers["factor"] < 1:
            raise _wrong_rope(f"its parameters make no sense: {numbers}")
        numbers["original_max_position_embeddings"] = int(numbers["original_max_position_embeddings"])
        return {**rotary, "rotary_scaling": {"type": "llama3", "rope_type": "llama3", **numbers}}
    raise _wrong_rope(f"'{kind}' is not verified; 'default', 'linear' and 'llama3' are")


def _rope_kind(values: Mapping[str, Any]) -> Any:
    return values.get("rope_type") or values.get("type") or "default"


def _kind_and_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the base, which older configs have beside it."""
    return {"kind": _rope_kind(values), **{k: v for k, v in values.items() if k not in ("rope_type", "type", "rope_theta")}}


def inverse_frequencies(rotary: Mapping[str, Any], head_size: int) -> list[float]:
    """What TensorRT-LLM computes from these fields, for a comparison with what transformers computes.

    Source: NVIDIA/TensorRT-LLM, tensorrt_llm/functional.py, RopeEmbeddingUtils.
    """
    plain = [rotary["rotary_base"] ** (-2 * i / head_size) for i in range(head_size // 2)]
    scaling = rotary["rotary_scaling"]
    if scaling is None:
        return plain
    factor = scaling["factor"]
    if scaling["type"] == "linear":
        return [frequency / factor for frequency in plain]
    low, high, context = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["original_max_position_embeddings"]
    scaled = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        share = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        scaled.append((1 - share) * frequency / factor + share * frequency)
    return scaled


def _wrong_rope(reason: str) -> SourceError:
    return SourceError(
        f"its rotary embedding would not come out right: {reason}", where=f"{WHERE}: rope_parameters", fix=USE_IMAGE
    )


# ------------------------------------------------------------------------------------------------------------------
# Typed access
# ------------------------------------------------------------------------------------------------------------------


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise SourceError("'architectures' names no class, so what this model is cannot be known", where=WHERE)
    return names[0]


def _typed(config: Mapping[str, Any], name: str, kind: type[T], default: T | None) -> T | None:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SourceError(f"'{name}' is {value!r}, where {kind.__name__} is needed", where=WHERE)
    return value


def _flag(config: Mapping[str, Any], name: str) -> bool:
    return bool(_typed(config, name, bool, False))


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = _typed(config, name, int, default)
    if value is None:
        raise SourceError(f"'{name}' is missing", where=WHERE)
    if value < 1:
        raise SourceError(f"'{name}' is {value}, where a number of at least 1 is needed", where=WHERE)
    return value


def _number(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise SourceError(f"'{name}' is missing", where=WHERE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SourceError(f"'{name}' is {value!r}, where a number is needed", where=WHERE)
    return float(value)
