"""What a TensorRT-LLM config.json must say of a model, and what is refused because it would come out wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines.modelopt.fields import inverse_frequencies, model_fields, rotary_fields
from enginepress.errors import SourceError
from tests.modelopt.making import LLAMA3

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
GRANITE = {**CONFIG, "architectures": ["GraniteForCausalLM"], "model_type": "granite"}
QWEN3 = {**CONFIG, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64}


def test_the_rotary_base_that_modelopt_drops_is_there() -> None:
    fields = model_fields(CONFIG)
    assert fields["rotary_base"] == 500000.0
    assert fields["rotary_scaling"] is None


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": LLAMA3},
        {"rope_theta": 500000.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
        {"rope_theta": 500000.0, "rope_scaling": {**{k: v for k, v in LLAMA3.items() if k != "rope_type"}, "type": "llama3"}},
        {"rope_parameters": LLAMA3, "rope_scaling": LLAMA3, "rope_theta": 500000.0},
    ],
    ids=["transformers 5", "transformers 4", "older", "both"],
)
def test_scaling_is_read_in_every_spelling(config: dict[str, Any]) -> None:
    rotary = rotary_fields(config)
    assert rotary["rotary_base"] == 500000.0
    assert rotary["rotary_scaling"] == {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "'yarn' is not verified"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not verified"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "'short_factor' in its parameters"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs between layers"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "'low_freq_factor' is missing"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "make no sense"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "part of each head"),
        ({"rope_parameters": {"rope_type": "default"}, "partial_rotary_factor": 0.5}, "part of each head"),
        ({"rope_parameters": {"rope_type": "default", "attention_factor": 1.5}}, "'attention_factor' in its parameters"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}}, "different things"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "base is -1.0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "10000"}}, "'10000'"),
        ({"rope_parameters": [1]}, "where dict is needed"),
    ],
)
def test_a_rotary_embedding_that_is_not_known_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        rotary_fields(config)


@given(
    base=st.floats(100.0, 1e7),
    head=st.sampled_from([16, 64, 128]),
    factor=st.floats(1.0, 64.0),
    low=st.floats(0.5, 2.0),
    span=st.floats(0.5, 8.0),
    context=st.integers(32, 16384),
)
def test_frequencies_are_those_of_transformers(
    base: float, head: int, factor: float, low: float, span: float, context: int
) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low + span,
        "original_max_position_embeddings": context,
    }
    config = LlamaConfig(head_dim=head, rope_parameters=rope, max_position_embeddings=16384)
    theirs = LlamaRotaryEmbedding(config).inv_freq.tolist()
    ours = inverse_frequencies(rotary_fields({"rope_parameters": rope}), head)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_granites_multipliers_are_turned_into_tensorrt_llms() -> None:
    multipliers = {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 1 / 64,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    }
    fields = model_fields({**GRANITE, **multipliers})
    assert fields["embedding_multiplier"] == 12.0
    assert fields["attention_multiplier"] == pytest.approx(math.sqrt(32) / 64)
    assert fields["residual_multiplier"] == 0.22
    assert fields["output_multiplier_scale"] == 0.125


def test_biases_are_announced() -> None:
    assert model_fields({**CONFIG, "attention_bias": True})["attn_bias"] is True
    assert model_fields(CONFIG)["attn_bias"] is False
    assert model_fields(QWEN3)["attn_bias"] is False
    assert model_fields({**CONFIG, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})["attn_bias"] is True


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rms_norm_eps": None}, "'rms_norm_eps' is missing"),
        ({"vocab_size": None}, "'vocab_size' is missing"),
        ({"vocab_size": 0}, "'vocab_size' is 0"),
        ({"num_hidden_layers": "2"}, "'num_hidden_layers' is '2'"),
        ({"num_key_value_heads": 3}, "8 attention heads cannot share 3"),
        ({"hidden_size": 250}, "'hidden_size' 250 is no multiple"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ({"model_type": "mistral"}, "'model_type' is 'mistral'"),
        ({"attention_bias": "yes"}, "'attention_bias' is 'yes'"),
        ({"rms_norm_eps": float("nan")}, "'rms_norm_eps' is nan"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        model_fields({**CONFIG, **changes})


def test_a_qwen3_with_biases_is_refused() -> None:
    with pytest.raises(SourceError, match="which TensorRT-LLM leaves out for Qwen3"):
        model_fields({**QWEN3, "attention_bias": True})
