"""Every family of the table, built from a config and random weights and compared with transformers in float32.

`RIGHT` holds what is taken, `WRONG` what is refused because the engine would fail or answer wrongly. If a case of `WRONG`
starts to pass, the tool has been mended and the refusal can go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines.onnxruntime.support import FAMILIES
from enginepress.errors import BuildError, UnsupportedModelError
from tests.engines.checkpoints import make_checkpoint
from tests.engines.comparison import build, compare
from tests.engines.warm_tool import WarmBuilder

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
OLD_LINEAR = {"type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
HALF = {"rope_type": "default", "partial_rotary_factor": 0.5}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
}
LONGROPE = {"type": "longrope", "short_factor": [1.1] * 8, "long_factor": [4.0] * 8}
WIDE = {"head_dim": 128, "max_position_embeddings": 8192}
"""Heads wide enough for yarn's ramp."""
HYBRID = {
    "layer_types": ["attention"] * 2,
    "shared_intermediate_size": 96,
    "num_local_experts": 0,
    "position_embedding_type": "rope",
}
EXPERTS = {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32}
GPT_OSS_YARN = {**YARN, "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096}


@dataclass(frozen=True)
class Case:
    name: str
    family: str
    config: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    lengths: tuple[int, ...] = (12, 100, 5, 40)
    dtype: str = "float32"
    base: bool = False
    """The plain form of a family, built in every precision."""


RIGHT = [
    Case("llama", "llama", base=True),
    Case("llama tied", "llama", {"tie_word_embeddings": True}),
    Case("llama biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama wide heads", "llama", {"head_dim": 32}),
    Case("llama one key head", "llama", {"num_key_value_heads": 1}),
    Case("llama bfloat16", "llama", dtype="bfloat16"),
    Case("llama float16", "llama", dtype="float16"),
    Case("llama theta", "llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    Case("llama theta, old spelling", "llama", {"rope_parameters": None, "rope_theta": 500000.0}),
    Case("llama long rope", "llama", {"rope_parameters": LLAMA3}, lengths=(12, 230, 100)),
    Case("llama long rope, old spelling", "llama", {"rope_parameters": None, "rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    Case("llama dynamic rope", "llama", {"rope_parameters": DYNAMIC}, lengths=(12, 100, 230)),
    Case("llama gelu", "llama", {"hidden_act": "gelu"}),
    Case("llama odd sizes", "llama", {"intermediate_size": 100, "hidden_size": 80, "vocab_size": 385}),
    Case("mistral", "mistral", base=True),
    Case("mistral window", "mistral", {"sliding_window": 32}, lengths=(12, 100, 230)),
    Case("mistral no window", "mistral", {"sliding_window": None, "head_dim": 32}),
    Case("mistral yarn", "mistral", {**WIDE, "rope_parameters": YARN}),
    Case("mistral yarn, both scales", "mistral", {**WIDE, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    Case("qwen2", "qwen2", base=True),
    Case("qwen2 tied", "qwen2", {"tie_word_embeddings": True}),
    Case("qwen2 window", "qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}),
    Case("qwen2 unused window", "qwen2", {"use_sliding_window": False, "sliding_window": 32}),
    Case("qwen2 linear rope", "qwen2", {"rope_parameters": LINEAR}),
    Case(
        "qwen2 linear rope, old spelling", "qwen2", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4.0}}
    ),
    Case("qwen3", "qwen3", {"head_dim": 32}, base=True),
    Case("qwen3 tied", "qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    Case("qwen3 biases", "qwen3", {"head_dim": 16, "attention_bias": True}),
    Case("qwen3 window", "qwen3", {"head_dim": 16, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}),
    Case("qwen3 yarn", "qwen3", {**WIDE, "rope_parameters": YARN}),
    Case("granite", "granite", base=True),
    Case(
        "granite multipliers",
        "granite",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.015625,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": True,
        },
    ),
    Case("granite biases", "granite", {"attention_bias": True, "mlp_bias": True}),
    Case("granite hybrid", "granitemoehybrid", HYBRID, base=True),
    Case("gemma", "gemma", {"head_dim": 16}, base=True),
    Case("gemma bfloat16", "gemma", {"head_dim": 16}, dtype="bfloat16"),
    Case("gemma2", "gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}, base=True),
    Case(
        "gemma2 window, bfloat16",
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 224, "sliding_window": 32},
        lengths=(12, 100, 230),
        dtype="bfloat16",
    ),
    Case("phi", "phi", {"hidden_size": 128}, base=True),
    Case("phi linear rope", "phi", {"hidden_size": 128, "rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}),
    Case("phi3", "phi3", base=True),
    Case("phi3 window", "phi3", {"sliding_window": 32}, lengths=(12, 100, 230)),
    Case("phi3 partial rotary", "phi3", {"head_dim": 32, "hidden_size": 128, "partial_rotary_factor": 0.5}),
    Case(
        "phi3 longrope, short",
        "phi3",
        {"original_max_position_embeddings": 64, "rope_parameters": None, "rope_scaling": LONGROPE},
        limit=64,
        lengths=(12, 42, 5),
    ),
    Case("smollm3", "smollm3", {"no_rope_layers": [1, 1]}, base=True),
    Case("smollm3 window", "smollm3", {"no_rope_layers": [1, 1], "use_sliding_window": True, "sliding_window": 32}),
    Case("nemotron", "nemotron", {"head_dim": 32}, base=True),
    Case("gemma2 float16", "gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}, dtype="float16"),
    Case("nemotron bfloat16", "nemotron", {"head_dim": 32}, dtype="bfloat16"),
    Case("hunyuan", "hunyuan_v1_dense", {"head_dim": 16}, base=True),
    Case("hunyuan dynamic rope", "hunyuan_v1_dense", {"head_dim": 16, "rope_parameters": {**DYNAMIC, "alpha": 1000.0}}),
    Case("ernie", "ernie4_5", {"head_dim": 16}, base=True),
    Case("ernie biases, linear rope", "ernie4_5", {"head_dim": 16, "use_bias": True, "rope_parameters": LINEAR}),
    Case("gpt-oss", "gpt_oss", {**EXPERTS, **WIDE, "head_dim": 64, "rope_parameters": GPT_OSS_YARN}, base=True),
]

WRONG = [
    Case("llama linear rope", "llama", {"rope_parameters": LINEAR}),
    Case("llama yarn", "llama", {**WIDE, "rope_parameters": YARN}),
    Case(
        "llama half rotary", "llama", {"head_dim": 32, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
    ),
    Case("llama heads of 24", "llama", {"head_dim": 24}),
    Case("llama vocabulary as wide as the model's inside", "llama", {"intermediate_size": 384}),
    Case("mistral long rope", "mistral", {"rope_parameters": LLAMA3}),
    Case("mistral yarn, truncated", "mistral", {**WIDE, "rope_parameters": {**YARN, "truncate": True}}),
    Case("mistral yarn, attention factor", "mistral", {**WIDE, "rope_parameters": {**YARN, "attention_factor": 1.0}}),
    Case("mistral yarn, one scale", "mistral", {**WIDE, "rope_parameters": {**YARN, "mscale": 1.0}}),
    Case("qwen2 dynamic rope", "qwen2", {"rope_parameters": DYNAMIC}),
    Case("granite hybrid, no positions", "granitemoehybrid", {**HYBRID, "position_embedding_type": None}),
    Case("granite hybrid, experts", "granitemoehybrid", {**HYBRID, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Case("phi norms", "phi", {"hidden_size": 128, "qk_layernorm": True}),
    Case(
        "phi3 longrope, long",
        "phi3",
        {"original_max_position_embeddings": 64, "rope_parameters": None, "rope_scaling": LONGROPE},
    ),
    Case("smollm3 layers without rope", "smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}),
    Case("nemotron biases", "nemotron", {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    Case("hunyuan linear rope", "hunyuan_v1_dense", {"head_dim": 16, "rope_parameters": LINEAR}),
]


QUANTIZED = [
    (case, precision)
    for case in RIGHT
    for family in FAMILIES.values()
    for precision in ("int8", "int4")
    if case.base and family.model_type == case.family and precision in family.precisions
]


def _id(case: Case) -> str:
    return case.name.replace(" ", "-").replace(",", "")


def _checkpoint(case: Case, folder: Path) -> Path:
    return make_checkpoint(folder / "checkpoint", case.family, dtype=case.dtype, **case.config)


def _limits(case: Case) -> dict[str, Any]:
    return {"max_batch_size": 8, "max_sequence_length": case.limit}


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT, ids=_id)
def test_a_family_gives_transformers_tokens_and_logits_in_float32(case: Case, warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = _checkpoint(case, tmp_path)
    engine = build(warm, checkpoint, limits=_limits(case))
    likeness = compare(engine, checkpoint, case.lengths)
    assert likeness.prompts == likeness.of_prompts
    assert likeness.logits < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize(("case", "precision"), QUANTIZED, ids=lambda value: value if isinstance(value, str) else _id(value))
def test_a_quantized_family_stays_near_transformers(case: Case, precision: str, warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = _checkpoint(case, tmp_path)
    likeness = compare(build(warm, checkpoint, precision=precision), checkpoint, case.lengths)
    # Random weights are the worst case for rounding; an engine that is wrong has logits off by 1.4 and the top token by chance.
    assert likeness.logits < {"int8": 0.12, "int4": 0.7}[precision]
    assert likeness.top > {"int8": 0.8, "int4": 0.2}[precision]


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG, ids=_id)
def test_what_is_refused_would_fail_or_answer_wrongly(case: Case, warm: WarmBuilder, tmp_path: Path, monkeypatch: Any) -> None:
    checkpoint = _checkpoint(case, tmp_path)
    with pytest.raises(UnsupportedModelError):
        build(warm, checkpoint)
    checkpoint.with_name("checkpoint-float32").rmdir()
    monkeypatch.setattr(warm, "check", lambda config, recipe: None)
    try:
        likeness = compare(build(warm, checkpoint), checkpoint, case.lengths)
    except (BuildError, RuntimeError):
        return
    assert likeness.prompts < likeness.of_prompts


def test_every_family_of_the_table_is_built_by_the_sweep() -> None:
    assert {case.family for case in RIGHT if case.base} == {family.model_type for family in FAMILIES.values()}
