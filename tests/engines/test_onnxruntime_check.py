"""What the onnxruntime builder refuses from config.json alone, before any weight is downloaded."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines import get_builder
from enginepress.engines.onnxruntime.support import FAMILIES, REFUSED
from enginepress.errors import EnginepressError, RecipeError, SourceError, UnsupportedModelError
from tests.engines.checkpoints import make_checkpoint
from tests.engines.comparison import recipe

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
}


def _check(config: Any, **engine: Any) -> None:
    get_builder("onnxruntime").check(config, recipe(**engine))


def _changed(**changes: Any) -> dict[str, Any]:
    return {**LLAMA, **changes}


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in LLAMA.items() if key != name}


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_llama_is_taken_in_every_precision_of_the_builder(precision: str) -> None:
    _check(LLAMA, precision=precision)


def test_the_checkpoints_of_the_tests_are_taken(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    _check(json.loads((checkpoint / "config.json").read_text()), limits={"max_sequence_length": 256})


@pytest.mark.parametrize("architecture", sorted(REFUSED))
def test_an_architecture_that_the_tool_names_but_does_not_do_right_is_refused_with_the_reason(architecture: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        _check(_changed(architectures=[architecture]))
    assert architecture in caught.value.message
    assert REFUSED[architecture] in caught.value.message
    assert caught.value.fix is not None
    assert "LlamaForCausalLM" in caught.value.fix


@pytest.mark.parametrize("architecture", ["Olmo2ForCausalLM", "GPTNeoXForCausalLM", "NoSuchModel"])
def test_an_unknown_architecture_is_refused_naming_what_can_be_built(architecture: str) -> None:
    with pytest.raises(UnsupportedModelError, match=architecture) as caught:
        _check(_changed(architectures=[architecture]))
    assert caught.value.exit_status == 2
    assert caught.value.fix is not None
    assert "no other builder of this version can" in caught.value.fix
    assert all(name in caught.value.fix for name in FAMILIES)


def test_no_architecture_is_both_taken_and_refused() -> None:
    assert not FAMILIES.keys() & REFUSED.keys()


PHI3 = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "max_position_embeddings": 131072}
LONGROPE = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already (gptq)"),
        ({"quantization_config": {}}, "quantized already"),
        ({"model_type": "mistral"}, "'model_type' is 'mistral'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "of the kind 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "of the kind 'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "of the kind 'per layer type'"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"head_dim": 100}, "heads have 100 dimensions"),
        ({"hidden_size": 3200}, "heads have 100 dimensions"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5"),
        ({"intermediate_size": 32000}, "'vocab_size' equals intermediate_size (32000)"),
        ({"vocab_size": 4096}, "'vocab_size' equals hidden_size (4096)"),
        ({"vocab_size": 12288}, "'vocab_size' equals the size of queries, keys and values"),
        ({"hidden_act": "mish"}, "activation is 'mish'"),
        ({**PHI3, "rope_scaling": LONGROPE}, "max_sequence_length of at most 4096"),
        ({**PHI3, "partial_rotary_factor": 0.3}, "38 dimensions of each head are rotated"),
        ({**MISTRAL, "rope_parameters": {**YARN}}, "truncates"),
        ({**MISTRAL, "rope_parameters": {**YARN, "truncate": False}}, "'beta_fast' and 'beta_slow'"),
        ({"architectures": ["PhiForCausalLM"], "model_type": "phi", "qk_layernorm": True}, "'qk_layernorm' is true"),
        ({"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"}, "'no_rope_layers'"),
        ({"architectures": ["NemotronForCausalLM"], "model_type": "nemotron", "mlp_bias": True}, "'mlp_bias' is true"),
        ({"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid"}, "Mamba"),
        (
            {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu", "hidden_activation": "relu"},
            "'hidden_act' is 'gelu' and 'hidden_activation' is 'relu'",
        ),
    ],
)
def test_a_config_that_would_fail_or_answer_wrongly_is_refused_naming_the_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        _check(_changed(**changes))
    assert message in caught.value.message
    assert caught.value.where == "config.json"


def test_longrope_is_taken_up_to_where_it_changes() -> None:
    config = _changed(**PHI3, rope_scaling=LONGROPE, original_max_position_embeddings=4096)
    _check(config, limits={"max_sequence_length": 4096})
    with pytest.raises(UnsupportedModelError):
        _check(config, limits={"max_sequence_length": 4097})


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "fp8", "nvfp4"])
def test_a_precision_that_the_builder_lacks_is_refused_naming_those_it_has(precision: str) -> None:
    with pytest.raises(RecipeError, match=precision) as caught:
        _check(LLAMA, precision=precision)
    assert caught.value.where == "engine.precision"
    assert caught.value.fix is not None
    assert "float32, int8, int4" in caught.value.fix


def test_of_a_quantized_checkpoint_the_unquantized_one_is_asked_for() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        _check(_changed(quantization_config={"quant_method": "gptq"}))
    assert "name the unquantized checkpoint" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("engine", "where"),
    [
        ({"kv_cache": "fp8"}, "engine.kv_cache"),
        ({"container": "26.07"}, "engine.container"),
        ({"options": {"build": {"gemm_plugin": "auto"}}}, "engine.options"),
        ({"limits": {"max_beam_width": 2}}, "engine.limits.max_beam_width"),
    ],
)
def test_a_field_for_gpus_is_refused_and_not_ignored(engine: dict[str, Any], where: str) -> None:
    with pytest.raises(RecipeError, match="engines on GPUs") as caught:
        _check(LLAMA, **engine)
    assert caught.value.where == where


def test_a_family_that_is_not_quantized_is_refused_in_int4() -> None:
    config = _changed(architectures=["GptOssForCausalLM"], model_type="gpt_oss")
    with pytest.raises(RecipeError, match="GptOssForCausalLM in float32 only, not in int4"):
        _check(config, precision="int4")


@pytest.mark.parametrize("kind", ["tensor", "pipeline", "context"])
def test_a_model_spread_over_gpus_is_refused(kind: str) -> None:
    with pytest.raises(RecipeError, match="cannot spread it over 2") as caught:
        _check(LLAMA, parallelism={kind: 2})
    assert caught.value.where == f"engine.parallelism.{kind}"


def test_a_gpu_is_refused() -> None:
    with pytest.raises(RecipeError, match="not for H100") as caught:
        _check(LLAMA, gpu={"name": "H100-SXM5-80GB"})
    assert caught.value.where == "engine.gpu"


def test_more_tokens_than_the_model_was_made_for_are_refused() -> None:
    _check(LLAMA, limits={"max_sequence_length": 4096})
    with pytest.raises(RecipeError, match="5000 is more than the 4096 tokens") as caught:
        _check(LLAMA, limits={"max_sequence_length": 5000})
    assert caught.value.where == "engine.limits.max_sequence_length"


def test_a_checkpoint_with_code_of_its_own_is_refused_without_leave() -> None:
    config = _changed(auto_map={"AutoModelForCausalLM": "modeling.Model"})
    with pytest.raises(SourceError, match="auto_map") as caught:
        _check(config)
    assert caught.value.fix is not None
    assert "source.trust_remote_code" in caught.value.fix
    _check(config, trust_remote_code=True)


@pytest.mark.parametrize("config", [None, [], "llama", 3, True])
def test_a_config_that_is_no_object_is_refused(config: Any) -> None:
    with pytest.raises(SourceError, match="an object is needed"):
        _check(config)


@pytest.mark.parametrize("names", [None, [], "LlamaForCausalLM", [3], [""], {}])
def test_a_config_without_an_architecture_is_refused(names: Any) -> None:
    with pytest.raises(SourceError, match="'architectures'"):
        _check(_changed(architectures=names))


@pytest.mark.parametrize(
    "name", ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
)
def test_a_missing_key_is_named(name: str) -> None:
    with pytest.raises(SourceError, match=f"'{name}' is missing") as caught:
        _check(_without(name))
    assert caught.value.where == "config.json"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "4096"),
        ("hidden_size", 0),
        ("hidden_size", True),
        ("num_attention_heads", -1),
        ("vocab_size", 3.5),
        ("rope_scaling", "linear"),
        ("hidden_act", 3),
        ("sliding_window", []),
        ("tie_word_embeddings", "yes"),
        ("partial_rotary_factor", "half"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(SourceError, match=f"'{name}' is") as caught:
        _check(_changed(**{name: value}))
    assert type(caught.value) is SourceError


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_KEYS = [
    *LLAMA,
    *("head_dim", "rope_scaling", "rope_parameters", "sliding_window", "quantization_config", "auto_map", "hidden_activation"),
    *("partial_rotary_factor", "qk_layernorm", "no_rope_layers", "attention_bias", "layer_types", "num_local_experts"),
    *("original_max_position_embeddings", "tie_word_embeddings"),
]
_ROPE = st.dictionaries(
    st.sampled_from(
        [
            *("rope_type", "type", "factor", "truncate", "beta_fast", "beta_slow", "mscale", "alpha"),
            *("partial_rotary_factor", "original_max_position_embeddings"),
        ]
    ),
    _JUNK | st.sampled_from(["yarn", "longrope", "dynamic", "linear"]),
)


@given(
    architecture=st.sampled_from(sorted(FAMILIES)),
    changes=st.dictionaries(st.sampled_from(_KEYS), _JUNK, max_size=3),
    rope=st.none() | _ROPE,
)
def test_no_config_whatever_it_holds_raises_anything_but_our_errors(
    architecture: str, changes: dict[str, Any], rope: dict[str, Any] | None
) -> None:
    config = {**LLAMA, "architectures": [architecture], "model_type": FAMILIES[architecture].model_type}
    config.update({"rope_scaling": rope} if rope is not None else {}, **changes)
    with contextlib.suppress(EnginepressError):
        _check(config)


@pytest.mark.parametrize(
    ("checks", "field"),
    [
        ({"prompts": [{"text": "a", "max_tokens": 8}, {"text": "b"}]}, "checks.prompts[1].max_tokens"),
        ({"load": {"max_tokens": 20}}, "checks.load.max_tokens"),
    ],
)
def test_answers_longer_than_the_server_would_give_are_refused_before_anything_is_built(
    checks: dict[str, Any], field: str
) -> None:
    wanted = recipe(limits={"max_sequence_length": 20})
    wanted = wanted.model_validate({**wanted.model_dump(), "checks": checks})
    with pytest.raises(RecipeError, match="20 at most") as caught:
        get_builder("onnxruntime").check(LLAMA, wanted)
    assert caught.value.where == field
    unserved = wanted.model_copy(update={"checks": wanted.checks.model_copy(update={"served": False})})
    get_builder("onnxruntime").check(LLAMA, unserved)
