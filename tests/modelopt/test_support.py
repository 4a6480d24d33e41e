"""What is refused before ModelOpt runs, with the value, the limit and the remedy. ModelOpt need not be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginepress.engines.modelopt import check_hugging_face, check_tensorrt_llm
from enginepress.engines.modelopt.fields import FAMILIES, REFUSED
from enginepress.engines.modelopt.support import FORMATS, data_type
from enginepress.errors import EnginepressError, RecipeError, SourceError, UnsupportedModelError
from enginepress.recipe import Calibration
from tests.modelopt.making import recipe
from tests.modelopt.test_fields import CONFIG

DATA = Path("/somewhere/calibration.jsonl")


@pytest.mark.parametrize("precision", sorted(FORMATS))
def test_every_precision_of_the_table_is_taken(precision: str) -> None:
    check_tensorrt_llm(CONFIG, recipe(precision, calibration=DATA, parallelism={"tensor": 2, "pipeline": 2}))


@pytest.mark.parametrize("precision", sorted(name for name in FORMATS if not FORMATS[name].calibrated))
def test_texts_that_nothing_is_measured_with_are_refused(precision: str) -> None:
    plain = recipe(precision)
    texts = Calibration(data=str(DATA))
    with pytest.raises(RecipeError, match=f"nothing is calibrated: {precision} measures no activations") as caught:
        check_tensorrt_llm(CONFIG, plain.model_copy(update={"engine": plain.engine.model_copy(update={"calibration": texts})}))
    assert caught.value.where == "engine.calibration"


@pytest.mark.parametrize("precision", ["fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq"])
def test_precisions_with_a_hugging_face_form_are_taken(precision: str) -> None:
    check_hugging_face(CONFIG, recipe(precision, calibration=DATA))


def test_a_rope_that_tensorrt_llm_would_get_wrong_is_no_matter_in_hugging_face_form() -> None:
    yarn = {**CONFIG, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "truncate": False}}
    check_hugging_face(yarn, recipe("fp8", calibration=DATA))
    with pytest.raises(SourceError, match="'truncate'"):
        check_tensorrt_llm(yarn, recipe("fp8", calibration=DATA))


RECIPES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"precision": "float32"}, "engine.precision", "makes no float32", "float16"),
    (
        {"precision": "fp8"},
        "engine.calibration",
        "fp8 needs calibration data, and nothing is ever downloaded",
        "engine.calibration.data",
    ),
    ({"kv_cache": "int8"}, "engine.calibration", "a KV cache in int8 needs calibration data", "engine.calibration.data"),
    ({"kv_cache": "nvfp4", "calibration": DATA}, "engine.kv_cache", "in nvfp4 is not made", "fp8 or int8"),
    ({"options": {"convert": {"per_token": True}}}, "engine.options.convert.per_token", "'per_token' is a flag", "'image'"),
    ({"parallelism": {"context": 2}}, "engine.parallelism.context", "over 2 GPUs by context", "'image'"),
    ({"parallelism": {"tensor": 2, "moe_expert": 2}}, "engine.parallelism.moe_expert", "no mixture of experts", "'image'"),
    ({"parallelism": {"tensor": 3}}, "engine.parallelism.tensor", "8 attention heads cannot be split over 3", "1, 2, 4, 8"),
    ({"parallelism": {"pipeline": 3}}, "engine.parallelism.pipeline", "2 layers evenly, and 3 is no divisor", "1, 2"),
    (
        {"precision": "int4_awq", "calibration": DATA, "parallelism": {"tensor": 4}},
        "engine.precision",
        "is 64 on each of 4 GPUs",
        "fewer GPUs",
    ),
]


@pytest.mark.parametrize(("engine", "where", "says", "fix"), RECIPES, ids=[f"{r[1]} {r[2][:20]}" for r in RECIPES])
def test_a_recipe_that_cannot_be_converted_is_refused(engine: dict[str, Any], where: str, says: str, fix: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_tensorrt_llm(CONFIG, recipe(**engine))
    assert raised.value.where == where
    assert says in raised.value.message
    assert fix in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("engine", "says", "fix"),
    [
        ({"precision": "int8"}, "no Hugging Face form", "fp8"),
        ({"precision": "bfloat16"}, "nothing to quantize", "as it is"),
        (
            {"precision": "fp8", "kv_cache": "int8", "calibration": DATA},
            "in int8 is not made for a Hugging Face checkpoint",
            "fp8 or nvfp4",
        ),
    ],
)
def test_what_has_no_hugging_face_form_is_refused(engine: dict[str, Any], says: str, fix: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_hugging_face(CONFIG, recipe(**engine))
    assert says in raised.value.message
    assert fix in (raised.value.fix or "")


CHECKPOINTS: list[tuple[dict[str, Any], type[EnginepressError], str, str]] = [
    ({"architectures": ["MixtralForCausalLM"]}, UnsupportedModelError, "how transformers 5 keeps its experts", "'image'"),
    ({"architectures": ["OPTForCausalLM"]}, UnsupportedModelError, "not verified that its numbers", "llmapi"),
    ({"architectures": None}, SourceError, "names no class", ""),
    ({"auto_map": {"AutoModelForCausalLM": "x.Y"}}, SourceError, "'auto_map' names Python code", "'image'"),
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}},
        UnsupportedModelError,
        "GPTQ 4 bits with desc_act",
        "made from",
    ),
    ({"sliding_window": 64}, SourceError, "'sliding_window' is 64, sequences have up to 256", "max_sequence_length to 64"),
    ({"sliding_window": "64"}, SourceError, "'sliding_window' is 64", "'image'"),
]


@pytest.mark.parametrize(("changes", "kind", "says", "fix"), CHECKPOINTS, ids=[c[2][:20] for c in CHECKPOINTS])
def test_a_checkpoint_that_cannot_be_converted_is_refused(
    changes: dict[str, Any], kind: type[EnginepressError], says: str, fix: str
) -> None:
    with pytest.raises(kind) as raised:
        check_tensorrt_llm({**CONFIG, **changes}, recipe())
    assert says in raised.value.message
    assert fix in (raised.value.fix or "")


def test_a_window_that_no_sequence_outgrows_is_no_matter() -> None:
    windowed = {**CONFIG, "sliding_window": 64}
    check_tensorrt_llm(windowed, recipe(limits={"max_sequence_length": 64}))
    check_tensorrt_llm({**windowed, "use_sliding_window": False}, recipe())
    with pytest.raises(SourceError):
        check_tensorrt_llm(windowed, recipe(limits={"max_sequence_length": 65}))


@pytest.mark.parametrize("precision", ["int4_awq", "w4a8_awq"])
def test_a_vocabulary_that_modelopt_would_pad_is_refused(precision: str) -> None:
    with pytest.raises(RecipeError, match="pads the vocabulary of 383"):
        check_tensorrt_llm({**CONFIG, "vocab_size": 383}, recipe(precision, calibration=DATA))


@pytest.mark.parametrize(("name", "blocks"), [("hidden_size", 128), ("intermediate_size", 128)])
def test_sizes_that_blocks_do_not_fit_are_refused(name: str, blocks: int) -> None:
    with pytest.raises(RecipeError, match=f"by blocks of {blocks}, and '{name}' is {CONFIG[name] - 64}"):
        check_tensorrt_llm({**CONFIG, name: CONFIG[name] - 64, "head_dim": 32}, recipe("int4_awq", calibration=DATA))


def test_key_heads_that_gpus_can_neither_share_nor_copy_are_refused() -> None:
    config = {**CONFIG, "num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 32}
    check_tensorrt_llm({**config, "intermediate_size": 768}, recipe(parallelism={"tensor": 12}))
    with pytest.raises(RecipeError, match="6 key and value heads can neither be split over 4"):
        check_tensorrt_llm(config, recipe(parallelism={"tensor": 4}))


@pytest.mark.parametrize(
    ("config", "precision", "expected"),
    [
        ({"dtype": "bfloat16"}, "fp8", "bfloat16"),
        ({"torch_dtype": "bfloat16"}, "int4", "bfloat16"),
        ({"dtype": "float32"}, "fp8", "float16"),
        ({"dtype": "bfloat16"}, "float16", "float16"),
        ({}, "fp8", "float16"),
    ],
)
def test_what_is_not_quantized_keeps_its_16_bit_type(config: dict[str, Any], precision: str, expected: str) -> None:
    assert data_type(config, recipe(precision)) == expected


def test_no_family_is_taken_and_refused() -> None:
    assert not set(FAMILIES) & set(REFUSED)
