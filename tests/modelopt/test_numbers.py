"""A TensorRT-LLM checkpoint that ModelOpt made computes what transformers computes from the checkpoint.

The engine is a stand-in (`reference`): an independent forward pass over the converted tensors and config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from enginepress.engines import modelopt
from enginepress.engines.modelopt.fields import FAMILIES
from enginepress.engines.trtllm_checkpoint import check_checkpoint
from tests.engines.checkpoints import make_checkpoint
from tests.modelopt.making import LLAMA3, SIZES, calibration_file, recipe
from tests.modelopt.reference import Engine, Part

TOKENS = [(7 * i + i * i) % 380 for i in range(150)]
"""Longer than the 64 tokens after which LLAMA3 stretches positions."""


def transformers_logits(checkpoint: Path) -> torch.Tensor:
    """In float32. ModelOpt, which changes transformers' classes, is in another process."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True, attn_implementation="eager")
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(torch.tensor([TOKENS])).logits[0]
    return logits


@dataclass(frozen=True)
class Case:
    name: str
    family: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tensor: int = 1
    pipeline: int = 1
    dtype: str = "float16"


GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.6, "logits_scaling": 4.0}

CASES = [
    Case("llama", "llama"),
    Case("llama on two GPUs", "llama", tensor=2),
    Case("llama in two stages", "llama", pipeline=2),
    Case("llama on four GPUs", "llama", {"rope_parameters": LLAMA3}, tensor=2, pipeline=2),
    Case("llama with fewer key heads than GPUs", "llama", {"num_key_value_heads": 2}, tensor=4),
    Case("llama tied", "llama", {"tie_word_embeddings": True}),
    Case("llama tied on two GPUs", "llama", {"tie_word_embeddings": True}, tensor=2),
    Case("llama tied in two stages", "llama", {"tie_word_embeddings": True}, pipeline=2),
    Case("llama with biases", "llama", {"attention_bias": True, "mlp_bias": True}, tensor=2),
    Case("llama, long rope", "llama", {"rope_parameters": LLAMA3}),
    Case(
        "llama, long rope in the old spelling", "llama", {"rope_parameters": None, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
    ),
    Case("llama, linear rope", "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}}),
    Case("llama, another base", "llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    Case("llama, the base in the old spelling", "llama", {"rope_parameters": None, "rope_theta": 500000.0}),
    Case("llama, a vocabulary that two GPUs cannot share evenly", "llama", {"vocab_size": 383}, tensor=2),
    Case("llama in bfloat16", "llama", dtype="bfloat16"),
    Case("mistral", "mistral", {"sliding_window": None, "rope_theta": 1000000.0}, tensor=2),
    Case("qwen2", "qwen2", {"head_dim": None}),
    Case("qwen2 tied on two GPUs", "qwen2", {"tie_word_embeddings": True, "rope_theta": 1000000.0, "head_dim": None}, tensor=2),
    Case("qwen3", "qwen3"),
    Case("qwen3 with wide heads on two GPUs", "qwen3", {"head_dim": 64, "rope_theta": 1000000.0}, tensor=2),
    Case("granite", "granite", {**GRANITE, "head_dim": None}),
    Case("granite on two GPUs", "granite", {**GRANITE, "head_dim": None, "attention_bias": True}, tensor=2),
]

SLOW = {
    "llama in two stages",
    "llama on two GPUs",
    "llama tied on two GPUs",
    "llama tied in two stages",
    "llama, another base",
    "llama, the base in the old spelling",
    "llama in bfloat16",
    "granite",
    "qwen3",
}
"""For test-all: others come near."""


def make(tmp_path: Path, family: str, config: Mapping[str, Any], dtype: str) -> Path:
    chosen = {**SIZES, **config}
    if chosen["head_dim"] is None:
        del chosen["head_dim"]
    return make_checkpoint(tmp_path / "checkpoint", family, dtype=dtype, **chosen)


def converted(checkpoint: Path, tmp_path: Path, precision: str, **engine: Any) -> Path:
    output = tmp_path / "converted"
    output.mkdir()
    calibration = calibration_file(tmp_path)
    modelopt.to_tensorrt_llm(checkpoint, output, recipe(precision, calibration=calibration, **engine), tmp_path / "log")
    return output


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in SLOW else []) for c in CASES])
def test_unquantized_checkpoints_give_transformers_logits(case: Case, tmp_path: Path, warm: None) -> None:
    checkpoint = make(tmp_path, case.family, case.config, case.dtype)
    parallelism = {"tensor": case.tensor, "pipeline": case.pipeline}
    output = converted(checkpoint, tmp_path, case.dtype, parallelism=parallelism)
    ours, theirs = Engine(output).logits(TOKENS), transformers_logits(checkpoint)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 2e-3 * theirs.abs().max()
    assert check_checkpoint(output) == []


@pytest.mark.parametrize(
    ("family", "config", "lost"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, "rotary_base"),
        ("llama", {"rope_parameters": LLAMA3}, "rotary_scaling"),
        ("llama", {"attention_bias": True}, "attn_bias"),
        ("granite", {**GRANITE, "head_dim": None}, "attention_multiplier"),
        ("granite", {**GRANITE, "head_dim": None}, "residual_multiplier"),
        ("qwen3", {}, "qwen_type"),
    ],
)
def test_what_modelopt_leaves_out_would_give_a_wrong_model(
    family: str, config: Mapping[str, Any], lost: str, tmp_path: Path, warm: None
) -> None:
    """The reason for the fields, and the proof that these tests would see a missing one."""
    checkpoint = make(tmp_path, family, config, "float16")
    output = converted(checkpoint, tmp_path, "float16")
    path = output / "config.json"
    fields = json.loads(path.read_text())
    del fields[lost]
    path.write_text(json.dumps(fields))
    ours, theirs = Engine(output).logits(TOKENS), transformers_logits(checkpoint)
    assert (ours - theirs).abs().max() > 0.02 * theirs.abs().max()


def test_every_family_of_the_table_is_among_the_cases(tmp_path: Path) -> None:
    assert {case.family for case in CASES} == {family.model_type for family in FAMILIES.values()}


NEAR = {"int8": 2e-3, "int4": 2e-3, "int8_sq": 0.05, "fp8": 0.12, "int4_awq": 0.6, "w4a8_awq": 0.6, "nvfp4": 0.6}
"""Largest relative error of the logits (Frobenius norm). Unrelated logits differ by 1.4, and random weights round worse than
trained ones. int8 and int4 are still 16 bits wide in the checkpoint."""

WEIGHTS_NEAR = {"int8_sq": 0.02, "fp8": 0.04, "int4_awq": 0.15, "w4a8_awq": 0.15, "nvfp4": 0.12}
"""Largest relative error of one weight."""


@pytest.mark.parametrize("tensor", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("precision", sorted(NEAR))
def test_quantized_checkpoints_give_logits_near_to_transformers(precision: str, tensor: int, tmp_path: Path, warm: None) -> None:
    checkpoint = make(tmp_path, "llama", {"rope_parameters": LLAMA3}, "float16")
    output = converted(checkpoint, tmp_path, precision, parallelism={"tensor": tensor})
    ours, theirs = Engine(output).logits(TOKENS), transformers_logits(checkpoint)
    error = (ours - theirs).norm() / theirs.norm()
    assert check_checkpoint(output) == []
    assert error < NEAR[precision]
    if precision not in ("int8", "int4"):
        assert error > 1e-3, "nothing was rounded, so nothing was quantized"


@pytest.mark.slow
@pytest.mark.parametrize("precision", sorted(WEIGHTS_NEAR))
def test_each_quantized_weight_is_near_to_the_checkpoints(precision: str, tmp_path: Path, warm: None) -> None:
    checkpoint = make(tmp_path, "llama", {}, "float16")
    engine = Engine(converted(checkpoint, tmp_path, precision))
    weights = load_file(checkpoint / "model.safetensors")
    for layer in range(2):
        part = Part(engine.ranks[0], f"transformer.layers.{layer}.", engine)
        prefix = f"model.layers.{layer}"
        for name, theirs in (
            ("attention.qkv", [f"self_attn.{which}_proj" for which in "qkv"]),
            ("attention.dense", ["self_attn.o_proj"]),
            ("mlp.fc", ["mlp.gate_proj"]),
            ("mlp.gate", ["mlp.up_proj"]),
            ("mlp.proj", ["mlp.down_proj"]),
        ):
            expected = torch.cat([weights[f"{prefix}.{module}.weight"] for module in theirs]).float()
            # What the layer makes of a unit vector is one column of its weight.
            decoded = part.linear(name, torch.eye(expected.shape[1])).T
            error = (decoded - expected).norm() / expected.norm()
            assert 1e-3 < error < WEIGHTS_NEAR[precision], (layer, name)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "granite"])
def test_every_family_is_quantized_rightly(family: str, tmp_path: Path, warm: None) -> None:
    extra = {"sliding_window": None} if family == "mistral" else GRANITE if family == "granite" else {}
    checkpoint = make(tmp_path, family, {**extra, **({} if family in ("mistral", "qwen3") else {"head_dim": None})}, "float16")
    output = converted(checkpoint, tmp_path, "fp8", parallelism={"tensor": 2})
    ours, theirs = Engine(output).logits(TOKENS), transformers_logits(checkpoint)
    assert 1e-3 < (ours - theirs).norm() / theirs.norm() < NEAR["fp8"]


@pytest.mark.parametrize(("kv_cache", "precision"), [("fp8", "fp8"), ("int8", "int4_awq"), ("int8", "float16"), ("fp8", "int8")])
def test_a_quantized_kv_cache_has_its_scaling_factors(kv_cache: str, precision: str, tmp_path: Path, warm: None) -> None:
    checkpoint = make(tmp_path, "llama", {}, "float16")
    output = converted(checkpoint, tmp_path, precision, kv_cache=kv_cache, parallelism={"tensor": 2})
    config = json.loads((output / "config.json").read_text())
    assert config["quantization"]["kv_cache_quant_algo"] == kv_cache.upper()
    engine = Engine(output)
    for rank in engine.ranks:
        for layer in range(2):
            factor = rank[f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"]
            assert factor.shape == (1,)
            assert factor.dtype == torch.float32
            assert 0 < factor.item() <= 1.0
