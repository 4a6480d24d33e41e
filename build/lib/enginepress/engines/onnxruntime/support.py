"""What ONNX Runtime GenAI's model builder makes a right engine of, and what it does not, as a table.

Every line was found by building tiny checkpoints with random weights and comparing the engine's answers and logits with
transformers' (tests/engines/test_onnxruntime_families.py keeps it so). The tool refuses little by itself: much of what is
refused here builds without a word and answers wrongly, or fails when the first request arrives. `FAMILIES` is what is
taken, with its rules; `REFUSED` is what the tool names, but what is not taken, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from enginepress.engines.onnxruntime.model import ModelConfig, whole_number

Verified = Literal["exact", "close"]
Rule = Callable[[ModelConfig], "str | None"]
"""What is wrong with this config for the family, as the end of a sentence, or None."""

PRECISIONS = {"float32": "fp32", "int8": "int8", "int4": "int4"}
"""Precisions of the recipe, and the tool's names for them."""

ACTIVATIONS = frozenset({"silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "relu2"})


@dataclass(frozen=True)
class Family:
    """One architecture that is taken.

    Attributes:
        model_type: what config.json must call it, since transformers goes by this and the tool by the architecture.
        models: well-known models of it, for the docs.
        verified: "exact" = transformers' greedy tokens in float32 in our tests; "close" = the same up to near ties.
        ropes: kinds of rotary embedding that come out right.
        partial_rotary: share of a head that is rotated if config.json does not say it, or None if it must be all.
        windows_every_layer: transformers applies `sliding_window` to all layers, without `layer_types`.
        load_float32: the tool computes with the weights in the checkpoint's type, which loses precision in bfloat16.
        precisions: of the recipe.
        rules: further conditions.
        note: for the docs.
    """

    model_type: str
    models: str
    verified: Verified = "exact"
    ropes: frozenset[str] = frozenset({"default", "linear", "yarn"})
    partial_rotary: float | None = None
    windows_every_layer: bool = False
    load_float32: bool = False
    precisions: frozenset[str] = frozenset(PRECISIONS)
    rules: tuple[Rule, ...] = ()
    note: str = ""


# ------------------------------------------------------------------------------------------------------------------
# Rules of single families
# ------------------------------------------------------------------------------------------------------------------


def _no_qk_layernorm(model: ModelConfig) -> str | None:
    return "'qk_layernorm' is true, which the tool leaves out" if model.flag("qk_layernorm") else None


def _rope_in_every_layer(model: ModelConfig) -> str | None:
    layers = model.raw.get("no_rope_layers")
    if isinstance(layers, list) and layers and all(layers):
        return None
    return "'no_rope_layers' names layers without rotary embedding, which the tool cannot build for a CPU"


def _no_biases(model: ModelConfig) -> str | None:
    found = [name for name in ("attention_bias", "mlp_bias") if model.flag(name)]
    return f"'{found[0]}' is true, which the tool gets wrong for this family" if found else None


def _dense_attention_only(model: ModelConfig) -> str | None:
    types = model.raw.get("layer_types") or model.raw.get("layers_block_type")
    if not isinstance(types, list) or any(kind not in ("attention", "full_attention") for kind in types):
        return "it has Mamba layers ('layer_types'), which the tool cannot build"
    if whole_number(model.raw, "num_local_experts", least=0):
        return "it has experts ('num_local_experts'), which the tool leaves out"
    if model.raw.get("position_embedding_type") != "rope":
        return "'position_embedding_type' is not 'rope', and the tool rotates all the same"
    return None


def _one_activation(model: ModelConfig) -> str | None:
    old, new = model.raw.get("hidden_act"), model.raw.get("hidden_activation")
    if old is not None and new is not None and old != new:
        return f"'hidden_act' is {old!r} and 'hidden_activation' is {new!r}: transformers uses the first, the tool the second"
    return None


def _alpha_if_dynamic(model: ModelConfig) -> str | None:
    if model.rope.kind == "dynamic" and not model.rope.values.get("alpha"):
        return "its dynamic rotary embedding has no 'alpha'"
    return None


# ------------------------------------------------------------------------------------------------------------------
# The table
# ------------------------------------------------------------------------------------------------------------------

_LLAMA_ROPES = frozenset({"default", "llama3", "dynamic"})

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", "Llama 1 to 3.3, TinyLlama, SmolLM2, Vicuna, Yi", ropes=_LLAMA_ROPES),
    "MistralForCausalLM": Family("mistral", "Mistral 7B, Mistral Nemo, Zephyr", windows_every_layer=True),
    "Qwen2ForCausalLM": Family("qwen2", "Qwen2, Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen"),
    "Qwen3ForCausalLM": Family("qwen3", "Qwen3 (dense)"),
    "GraniteForCausalLM": Family("granite", "Granite 3"),
    "GraniteMoeHybridForCausalLM": Family(
        "granitemoehybrid",
        "Granite 4 (dense, without Mamba)",
        ropes=frozenset({"default"}),
        rules=(_dense_attention_only,),
        note="all layers attention, no experts, `position_embedding_type` rope",
    ),
    "GemmaForCausalLM": Family(
        "gemma",
        "Gemma 1, CodeGemma",
        verified="close",
        ropes=frozenset({"default", "linear"}),
        load_float32=True,
        rules=(_one_activation,),
        note="the tool rounds the embedding's scale, √hidden_size, to two decimals",
    ),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        "Gemma 2",
        verified="close",
        ropes=frozenset({"default"}),
        load_float32=True,
        note="as Gemma; exact where √hidden_size has two decimals (2B: 48)",
    ),
    "PhiForCausalLM": Family(
        "phi", "Phi-1, Phi-1.5, Phi-2", ropes=frozenset({"default", "linear"}), partial_rotary=0.5, rules=(_no_qk_layernorm,)
    ),
    "Phi3ForCausalLM": Family(
        "phi3",
        "Phi-3 mini and medium, Phi-3.5 mini, Phi-4, Phi-4-mini",
        ropes=frozenset({"default", "longrope"}),
        partial_rotary=1.0,
        windows_every_layer=True,
        note="longrope (the 128K models) only up to `original_max_position_embeddings`",
    ),
    "SmolLM3ForCausalLM": Family(
        "smollm3", "SmolLM3", ropes=_LLAMA_ROPES, rules=(_rope_in_every_layer,), note="only if every layer has rotary embedding"
    ),
    "NemotronForCausalLM": Family(
        "nemotron",
        "Nemotron-4, Minitron",
        ropes=frozenset({"default"}),
        partial_rotary=0.5,
        load_float32=True,
        rules=(_no_biases,),
    ),
    "HunYuanDenseV1ForCausalLM": Family(
        "hunyuan_v1_dense",
        "Hunyuan dense, HY-MT",
        ropes=frozenset({"default", "dynamic"}),
        rules=(_alpha_if_dynamic,),
    ),
    "Ernie4_5ForCausalLM": Family("ernie4_5", "ERNIE 4.5 (dense)", ropes=frozenset({"default", "linear"})),
    "GptOssForCausalLM": Family(
        "gpt_oss",
        "gpt-oss, converted to bfloat16",
        precisions=frozenset({"float32"}),
        ropes=frozenset({"yarn"}),
        note="the published MXFP4 checkpoints are refused: they are quantized already",
    ),
}

_PICTURES = "it has a part for pictures or sound; only text models are served"
_OWN_CODE = "it needs Python code of its own, written for another transformers, and was never seen working"
_NO_BATCHES = "the engine that computes requests together does not take its layers, so it could not be served"

REFUSED: dict[str, str] = {
    "ChatGLMForConditionalGeneration": _OWN_CODE,
    "ChatGLMModel": _OWN_CODE,
    "Gemma3ForCausalLM": "the tool does not understand its rotary embedding as transformers 5 gives it",
    "Gemma3ForConditionalGeneration": _PICTURES,
    "Gemma4ForConditionalGeneration": _PICTURES,
    "Gemma4UnifiedForConditionalGeneration": _PICTURES,
    "InternLM2ForCausalLM": _OWN_CODE,
    "Lfm2AudioForConditionalGeneration": _PICTURES,
    "Lfm2ForCausalLM": _NO_BATCHES,
    "Lfm2MoeForCausalLM": _NO_BATCHES,
    "Lfm2VlForConditionalGeneration": _PICTURES,
    "Mistral3ForConditionalGeneration": _PICTURES,
    "OlmoForCausalLM": "the engine that the tool makes of it gives wrong answers",
    "Phi3SmallForCausalLM": _OWN_CODE,
    "Phi3VForCausalLM": _PICTURES,
    "Phi4MMForCausalLM": _PICTURES,
    "PhiMoEForCausalLM": "the tool builds it for NVIDIA GPUs only",
    "Qwen2_5_VLForConditionalGeneration": _PICTURES,
    "Qwen3VLForConditionalGeneration": _PICTURES,
    "Qwen3_5ForConditionalGeneration": _PICTURES,
    "Qwen3_5MoeForConditionalGeneration": _PICTURES,
    "VideoChatFlashQwenForCausalLM": _PICTURES,
    "WhisperForConditionalGeneration": _PICTURES,
}


# ------------------------------------------------------------------------------------------------------------------
# Conditions of all families
# ------------------------------------------------------------------------------------------------------------------


def refusal(model: ModelConfig, max_sequence_length: int | None) -> str | None:
    """Why this model is not taken, as a sentence, or None if it is. Its architecture is one of `FAMILIES`."""
    family = FAMILIES[model.architecture]
    if model.model_type != family.model_type:
        return (
            f"'model_type' is {model.model_type!r} and the architecture {model.architecture}: "
            "transformers goes by the first, the tool by the second"
        )
    reason = (
        _rope_refusal(model, family, max_sequence_length)
        or _head_refusal(model, family)
        or _size_refusal(model)
        or _activation_refusal(model)
    )
    for rule in family.rules:
        reason = reason or rule(model)
    return reason


def _rope_refusal(model: ModelConfig, family: Family, max_sequence_length: int | None) -> str | None:
    rope = model.rope
    if rope.kind not in family.ropes:
        return (
            f"its rotary embedding is of the kind '{rope.kind}', which the tool gets wrong for this family "
            f"(right: {', '.join(sorted(family.ropes))})"
        )
    if rope.values.get("mrope_section") is not None:
        return "its rotary embedding has an 'mrope_section': positions of pictures, which are not served"
    if rope.kind == "yarn":
        return _yarn_refusal(model)
    if rope.kind == "longrope":
        return _longrope_refusal(model, max_sequence_length)
    return None


def _yarn_refusal(model: ModelConfig) -> str | None:
    values = model.rope.values
    if values.get("truncate", True):
        return "its yarn rotary embedding truncates ('truncate' is not false), and the tool does not"
    if not values.get("beta_fast") or not values.get("beta_slow"):
        return "its yarn rotary embedding does not give 'beta_fast' and 'beta_slow', and the tool has no defaults for them"
    if values.get("attention_factor") is not None:
        return "its yarn rotary embedding gives an 'attention_factor', which the tool leaves out"
    if bool(values.get("mscale")) != bool(values.get("mscale_all_dim")):
        return "its yarn rotary embedding gives only one of 'mscale' and 'mscale_all_dim', which the tool reads in another way"
    return None


def _longrope_refusal(model: ModelConfig, max_sequence_length: int | None) -> str | None:
    original = original_context(model)
    if max_sequence_length is not None and max_sequence_length <= original:
        return None
    return (
        f"its rotary embedding changes at {original} tokens (longrope), and requests computed together on both sides of that "
        f"get wrong answers; with engine.limits.max_sequence_length of at most {original} it can be built"
    )


def original_context(model: ModelConfig) -> int:
    """`original_max_position_embeddings`, in either of its places, or Phi-3's default."""
    return (
        whole_number(model.rope.values, "original_max_position_embeddings")
        or whole_number(model.raw, "original_max_position_embeddings")
        or 4096
    )


def _head_refusal(model: ModelConfig, family: Family) -> str | None:
    if model.head_dim % 16:
        return f"its heads have {model.head_dim} dimensions, and ONNX Runtime's attention takes multiples of 16 only"
    partial = model.rope.partial
    if family.partial_rotary is None:
        if partial not in (None, 1.0):
            return f"'partial_rotary_factor' is {partial:g}, which the tool gets wrong for this family"
        return None
    rotated = int(model.head_dim * (family.partial_rotary if partial is None else partial))
    if rotated % 16:
        return f"{rotated} dimensions of each head are rotated, and ONNX Runtime's attention takes multiples of 16 only"
    return None


def _size_refusal(model: ModelConfig) -> str | None:
    """The tool takes any layer with as many outputs as the vocabulary has entries for the output layer."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sizes = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "intermediate_size, twice": 2 * (model.intermediate_size or 0),
        "the size of the queries": queries,
        "the size of the keys": keys,
        "the size of queries, keys and values": queries + 2 * keys,
    }
    for name, size in sizes.items():
        if size == model.vocab_size:
            return f"'vocab_size' equals {name} ({size}), and the tool takes such a layer for the output layer"
    return None


def _activation_refusal(model: ModelConfig) -> str | None:
    if model.activation is not None and model.activation not in ACTIVATIONS:
        return f"its activation is '{model.activation}', and the tool has {', '.join(sorted(ACTIVATIONS))}"
    return None
