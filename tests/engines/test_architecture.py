"""What config.json says of shapes: parameters of well-known models to the last matrix, and spellings old and new."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines.architecture import read_shape
from enginepress.errors import EnginepressError, SourceError, UnsupportedModelError
from tests.fit.models import config


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2.5-7b", 7_615_616_512),
    ],
)
def test_the_parameters_of_a_published_model_are_counted_exactly(model: str, parameters: int) -> None:
    assert read_shape(config(model)).parameters == parameters


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("qwen3-30b-a3b", 30_532_122_624),  # norms of queries and keys are left out
        ("gemma-2-9b", 9_241_705_984),  # two more norms a layer
        ("deepseek-v3", 671_026_419_200),  # biases of the choosers of experts
        ("mistral-7b-v0.1", 7_241_732_096),
        ("falcon-7b", 6_921_720_704),
    ],
)
def test_small_things_of_single_families_make_no_difference(model: str, parameters: int) -> None:
    assert read_shape(config(model)).parameters == pytest.approx(parameters, rel=1e-4)


def test_gpt2_is_read_in_its_own_spelling() -> None:
    shape = read_shape(config("gpt2"))
    assert (shape.layers, shape.hidden_size, shape.heads, shape.kv_heads) == (12, 768, 12, 12)
    assert (shape.head_dim, shape.intermediate_size, shape.context) == (64, 3072, 1024)
    assert shape.tied
    assert not shape.gated
    assert shape.parameters == pytest.approx(124_439_808, rel=0.01)  # positions are left out


def test_multi_query_attention_has_one_key_value_head_whatever_is_written_beside_it() -> None:
    assert read_shape(config("falcon-7b")).kv_heads == 1


def test_grouped_heads_of_newer_falcons_are_read() -> None:
    assert read_shape(config("falcon-7b", new_decoder_architecture=True, num_kv_heads=8, num_attention_heads=128)).kv_heads == 8


def test_a_head_dimension_that_is_not_the_quotient_is_read() -> None:
    shape = read_shape(config("gemma-2-9b"))
    assert shape.head_dim == 256
    assert shape.hidden_size // shape.heads == 224


def test_the_text_part_of_a_multimodal_model_is_read() -> None:
    inner = config("llama-3.1-8b")
    outer = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": inner, "vision_config": {}}
    shape = read_shape(outer)
    assert shape.architecture == "LlavaForConditionalGeneration"
    assert shape.parameters == 8_030_261_248


@pytest.mark.parametrize(
    ("model", "changes", "window", "layers"),
    [
        ("mistral-7b-v0.1", {}, 4096, 32),
        ("gemma-2-9b", {}, 4096, 21),
        ("gemma-2-9b", {"layer_types": ["full_attention"] * 40 + ["sliding_attention"] * 2}, 4096, 2),
        ("gemma-2-9b", {"model_type": "gemma3_text", "sliding_window_pattern": 6}, 4096, 35),
        ("qwen2.5-7b", {}, None, 0),
        ("qwen2.5-7b", {"use_sliding_window": True, "max_window_layers": 20}, 131072, 8),
        ("llama-3.1-8b", {}, None, 0),
    ],
)
def test_sliding_windows_are_read(model: str, changes: dict[str, Any], window: int | None, layers: int) -> None:
    shape = read_shape(config(model, **changes))
    assert (shape.window, shape.windowed_layers) == (window, layers)


def test_experts_are_read() -> None:
    qwen, deepseek = read_shape(config("qwen3-30b-a3b")), read_shape(config("deepseek-v3"))
    assert qwen.experts is not None
    assert (qwen.experts.count, qwen.experts.active, qwen.experts.intermediate_size, qwen.experts.layers) == (128, 8, 768, 48)
    assert deepseek.experts is not None
    assert (deepseek.experts.count, deepseek.experts.shared_size, deepseek.experts.layers) == (256, 2048, 58)
    assert read_shape(config("llama-3.1-8b")).experts is None


def test_experts_in_every_second_layer_and_named_plain_layers_are_counted() -> None:
    shape = read_shape(config("qwen3-30b-a3b", decoder_sparse_step=2, mlp_only_layers=[1]))
    assert shape.expert_layers == 23


def test_llama_4_has_a_shared_expert_and_plain_layers_of_another_width() -> None:
    scout = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "vocab_size": 202048,
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "max_position_embeddings": 10485760,
            "tie_word_embeddings": False,
        },
    }
    assert read_shape(scout).parameters == pytest.approx(107.8e9, rel=0.01), "109 billion with the part for images"
    scout["text_config"]["interleave_moe_layer_step"] = 2  # type: ignore[index]
    assert read_shape(scout).expert_layers == 24


def test_latent_attention_is_read() -> None:
    shape = read_shape(config("deepseek-v3"))
    assert shape.latent is not None
    assert shape.latent.cached == 576


def test_the_checkpoints_own_quantization_is_kept() -> None:
    quantization = read_shape(config("deepseek-v3")).quantization
    assert quantization is not None
    assert quantization["quant_method"] == "fp8"


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"]
)
def test_a_missing_size_is_named(key: str) -> None:
    with pytest.raises(SourceError, match=key) as caught:
        read_shape(config("llama-3.1-8b", **{key: None}))
    assert caught.value.where == "config.json"


@pytest.mark.parametrize("value", [0, -1, "32", 3.5, True, [32]])
def test_what_is_no_size_is_named(value: object) -> None:
    with pytest.raises(SourceError, match="num_hidden_layers"):
        read_shape(config("llama-3.1-8b", num_hidden_layers=value))


@pytest.mark.parametrize("model_type", ["t5", "bert", "whisper"])
def test_what_is_no_decoder_is_refused(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match="decoder"):
        read_shape(config("llama-3.1-8b", model_type=model_type))


@pytest.mark.parametrize("model_type", ["mamba", "recurrent_gemma", "jamba"])
def test_what_keeps_a_state_instead_of_a_cache_is_refused(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match="state"):
        read_shape(config("llama-3.1-8b", model_type=model_type))


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(SourceError, match="JSON object"):
        read_shape(value)


VALUES = st.none() | st.booleans() | st.integers(-5, 200) | st.text(max_size=5) | st.lists(st.integers(0, 3), max_size=3)


@given(st.dictionaries(st.sampled_from(sorted(config("deepseek-v3"))), VALUES, max_size=8))
def test_any_config_is_a_shape_or_a_named_error(changes: dict[str, Any]) -> None:
    found: object
    try:
        found = read_shape({**config("deepseek-v3"), **changes}).parameters
    except EnginepressError as error:
        found = error
    assert found.where if isinstance(found, EnginepressError) else isinstance(found, int) and found > 0
