"""Which tensors a TensorRT-LLM checkpoint must hold, rank by rank, worked out from its config.json.

Sources (NVIDIA/TensorRT-LLM): docs/source/legacy/architecture/checkpoint.md (names, ranks), tensorrt_llm/models/llama/model.py
and qwen/model.py (modules), layers/linear.py, embedding.py and moe.py (shapes), quantization/layers.py (scaling factors),
models/modeling_utils.py (`preprocess_weights`: what a loader accepts; `PretrainedModel.load`: the head may be left out).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

LLAMA = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "GraniteForCausalLM"})
QWEN = frozenset({"Qwen2ForCausalLM", "Qwen3ForCausalLM"})

FLOATS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class Need:
    """One tensor.

    Attributes:
        dtypes: any of these.
        shapes: any of these.
        optional: it may be left out.
    """

    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    optional: bool = False


@dataclass(frozen=True)
class Shape:
    """A config.json, typed, as far as tensors depend on it."""

    architecture: str
    dtype: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tp: int
    pp: int
    experts: int
    moe_tp: int
    moe_ep: int
    attn_bias: bool
    mlp_bias: bool
    split_embedding: bool
    sharding_dim: int
    algorithm: str | None
    kv_cache: str | None
    group: int
    excluded: tuple[str, ...]

    def quantizes(self, *modules: str) -> bool:
        """Whether the weights of a module are quantized; `modules`: its names, any of which `exclude_modules` may mean
        (shell patterns: TensorRT-LLM, models/modeling_utils.py, `QuantConfig.is_module_excluded_from_quantization`).
        """
        if self.algorithm is None:
            return False
        return not any(fnmatchcase(module, pattern) for module in modules for pattern in self.excluded)

    @property
    def qwen3(self) -> bool:
        return self.architecture == "Qwen3ForCausalLM"


_SCALED = {"FP8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W4A8_AWQ", "NVFP4"}
_AT_LOAD = {"W8A16": 8, "W4A16": 4}
"""Weight-only: 16-bit weights that trtllm-build quantizes, or weights that convert_checkpoint.py quantized, and their bits."""


def is_known(architecture: str, algorithm: str | None) -> bool:
    """Whether `tensors_of_rank` knows all tensors of such a checkpoint."""
    return architecture in LLAMA | QWEN and (algorithm is None or algorithm in _SCALED or algorithm in _AT_LOAD)


def tensors_of_rank(shape: Shape, rank: int) -> dict[str, Need]:
    """Every tensor of one rank's file.

    Args:
        rank: tensor-parallel ranks first, then pipeline stages: rank = stage * tp + part.
    """
    stage = rank // shape.tp
    needs: dict[str, Need] = {}
    if stage == 0:
        needs["transformer.vocab_embedding.weight"] = _plain(shape, *_embedding(shape))
    for layer, of_all in enumerate(_stage_layers(shape.layers, shape.pp, stage)):
        needs.update({f"transformer.layers.{layer}.{name}": need for name, need in _layer(shape, layer, of_all)})
    if stage == shape.pp - 1:
        needs["transformer.ln_f.weight"] = _plain(shape, shape.hidden)
        needs |= _head(shape, shared=stage == 0)
    return needs


def _head(shape: Shape, *, shared: bool) -> dict[str, Need]:
    """Args:
    shared: one table for embedding and head may do, and the head be left out: they lie in the same file.
    """
    rows = math.ceil(shape.vocab / shape.tp)
    plain = _plain(shape, rows, shape.hidden)
    needs = {"lm_head.weight": replace(plain, optional=shared)}
    # Left alone unless a list of exceptions lacks it (quantize.py: --quantize_lm_head); older tools leave it out of the list.
    if shape.excluded and shape.quantizes("lm_head"):
        for name, need in _linear(shape, "lm_head", rows, shape.hidden, quantized=True):
            both = Need((*plain.dtypes, *need.dtypes), (*plain.shapes, *need.shapes), shared)
            needs[name] = both if name == "lm_head.weight" else replace(need, optional=True)
    return needs


def _stage_layers(layers: int, stages: int, stage: int) -> range:
    """Layers of a stage: even shares, the first stages taking one more (Mapping.pp_layers)."""
    share, more = divmod(layers, stages)
    start = stage * share + min(stage, more)
    return range(start, start + share + (1 if stage < more else 0))


def _embedding(shape: Shape) -> tuple[int, int]:
    if not shape.split_embedding:
        return shape.vocab, shape.hidden
    if shape.sharding_dim == 0:
        return math.ceil(shape.vocab / shape.tp), shape.hidden
    return shape.vocab, shape.hidden // shape.tp


def _layer(shape: Shape, layer: int, of_all: int) -> Iterator[tuple[str, Need]]:
    """Args:
    layer, of_all: its number within the stage, and within the model: which of them an exception means is not known.
    """

    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Need]]:
        quantized = shape.quantizes(f"transformer.layers.{layer}.{name}", f"transformer.layers.{of_all}.{name}")
        return _linear(shape, name, rows, columns, quantized=quantized)

    queries = shape.heads // shape.tp * shape.head_size
    keys = max(1, shape.kv_heads // shape.tp) * shape.head_size
    yield "input_layernorm.weight", _plain(shape, shape.hidden)
    yield "post_layernorm.weight", _plain(shape, shape.hidden)
    yield from linear("attention.qkv", queries + 2 * keys, shape.hidden)
    yield from linear("attention.dense", shape.hidden, queries)
    if shape.attn_bias:
        yield "attention.qkv.bias", _plain(shape, queries + 2 * keys)
        if shape.architecture not in QWEN:
            yield "attention.dense.bias", _plain(shape, shape.hidden)
    if shape.qwen3:
        yield "attention.q_layernorm.weight", _plain(shape, shape.head_size)
        yield "attention.k_layernorm.weight", _plain(shape, shape.head_size)
    if shape.kv_cache is not None:
        for name, optional in (
            ("kv_cache_scaling_factor", True),  # whether these or those: `trtllm_checkpoint` looks
            ("k_cache_scaling_factor", True),
            ("v_cache_scaling_factor", True),
            ("kv_cache_rcp_scaling_factor", True),
        ):
            yield f"attention.{name}", Need(("F32",), ((1,), ()), optional)
    if shape.experts:
        yield from _experts(shape)
        return
    inner = shape.intermediate // shape.tp
    for name in ("mlp.fc", "mlp.gate"):
        yield from linear(name, inner, shape.hidden)
        if shape.mlp_bias:
            yield f"{name}.bias", _plain(shape, inner)
    yield from linear("mlp.proj", shape.hidden, inner)
    if shape.mlp_bias:
        yield "mlp.proj.bias", _plain(shape, shape.hidden)


def _experts(shape: Shape) -> Iterator[tuple[str, Need]]:
    """Known without quantization only."""
    experts, inner = shape.experts // shape.moe_ep, shape.intermediate // shape.moe_tp
    yield "mlp.router.weight", Need(("F32", FLOATS[shape.dtype]), ((shape.experts, shape.hidden),))
    yield "mlp.fc.weight", _plain(shape, experts, 2 * inner, shape.hidden)
    yield "mlp.proj.weight", _plain(shape, experts, shape.hidden, inner)


def _linear(shape: Shape, name: str, rows: int, columns: int, *, quantized: bool) -> Iterator[tuple[str, Need]]:
    algorithm = shape.algorithm if quantized else None
    weight = f"{name}.weight"
    one = ((1,), ())
    if algorithm is None:
        yield weight, _plain(shape, rows, columns)
    elif algorithm in _AT_LOAD:
        packed = rows * _AT_LOAD[algorithm] // 8
        yield weight, Need((FLOATS[shape.dtype], "I8"), ((rows, columns), (columns, packed)))
        yield f"{name}.per_channel_scale", Need((FLOATS[shape.dtype],), ((rows,),), optional=True)
    elif algorithm == "FP8":
        yield weight, Need(("F8_E4M3", "I8"), ((rows, columns),))
        yield f"{name}.weights_scaling_factor", Need(("F32",), one)
        yield f"{name}.activation_scaling_factor", Need(("F32",), one)
    elif algorithm == "W8A8_SQ_PER_CHANNEL":
        yield weight, Need(("I8",), ((rows, columns),))
        yield f"{name}.weights_scaling_factor", Need(("F32",), ((rows,),))
        yield f"{name}.activation_scaling_factor", Need(("F32",), one)
        yield f"{name}.prequant_scaling_factor", _plain(shape, columns)
    elif algorithm == "NVFP4":
        yield weight, Need(("U8", "I8"), ((rows, columns // 2),))
        yield f"{name}.weights_scaling_factor", Need(("F8_E4M3", "U8", "I8"), ((rows, columns // 16),))
        yield f"{name}.weights_scaling_factor_2", Need(("F32",), one)
        yield f"{name}.activation_scaling_factor", Need(("F32",), one)
    else:
        yield weight, Need(("I8", "U8"), ((rows // 2, columns),))
        yield f"{name}.weights_scaling_factor", Need(("F32", *FLOATS.values()), ((rows, columns // shape.group),))
        yield f"{name}.prequant_scaling_factor", _plain(shape, columns)
        if algorithm == "W4A8_AWQ":
            yield f"{name}.weights_scaling_factor_2", Need(("F32",), one)
            yield f"{name}.activation_scaling_factor", Need(("F32",), one)


def _plain(shape: Shape, *sizes: int) -> Need:
    return Need((FLOATS[shape.dtype],), (sizes,))


def blocks_of(shape: Shape) -> int:
    """Columns of a weight that share a scaling factor; 0 where none do."""
    if shape.algorithm == "NVFP4":
        return 16
    return shape.group if shape.algorithm in ("W4A16_AWQ", "W4A8_AWQ", "W4A16_GPTQ", "W8A16_GPTQ") else 0


def read_shape(config: Mapping[str, Any]) -> Shape:
    """A config.json whose keys were found right (`trtllm_checkpoint`)."""
    mapping = config.get("mapping") or {}
    quantization = config.get("quantization") or {}
    moe = config.get("moe") or {}
    heads = config["num_attention_heads"]
    tp = mapping.get("tp_size", 1)
    moe_ep = max(1, mapping.get("moe_ep_size", 1))
    qwen2 = config["architecture"] == "Qwen2ForCausalLM"
    return Shape(
        architecture=config["architecture"],
        dtype=config["dtype"],
        vocab=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_size") or config["hidden_size"] // heads,
        intermediate=config.get("intermediate_size") or 4 * config["hidden_size"],
        tp=tp,
        pp=mapping.get("pp_size", 1),
        experts=moe.get("num_experts") or config.get("moe_num_experts") or 0,
        moe_tp=tp // moe_ep,
        moe_ep=moe_ep,
        attn_bias=bool(config.get("attn_bias", qwen2)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        split_embedding=bool(config.get("use_parallel_embedding", False)),
        sharding_dim=config.get("embedding_sharding_dim", 0),
        algorithm=quantization.get("quant_algo"),
        kv_cache=quantization.get("kv_cache_quant_algo"),
        group=quantization.get("group_size") or 128,
        excluded=tuple(quantization.get("exclude_modules") or ()),
    )
