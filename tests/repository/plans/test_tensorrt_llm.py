"""The planner of tensorrt_llm: what a recipe sets, what is refused, and that what comes out validates clean."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.config import parse_config
from enginepress.repository.place import place, write_placement
from enginepress.repository.plans import plan_models
from enginepress.repository.plans.tensorrt_llm_parameters import GENERATIONS, PARAMETERS, Parameter, read_parameters
from enginepress.repository.templates import template_folder
from enginepress.repository.validate import validate
from tests.repository import samples

CONTAINERS = {"tensorrt_llm_0_18": "25.04", "tensorrt_llm_0_19": "25.08", "tensorrt_llm_1_0": "26.07"}

VERSIONS = {"tensorrt_llm_0_18": "0.18.2", "tensorrt_llm_0_19": "0.20.0", "tensorrt_llm_1_0": "1.2.1"}


def recipe(generation: str = "tensorrt_llm_1_0", *, engine: Mapping[str, Any] | None = None, **serving: Any) -> Recipe:
    base = {"builder": "tensorrt_llm", "precision": "float16", "container": CONTAINERS[generation]}
    return Recipe.model_validate(
        {
            "name": "llama",
            "source": "file:///checkpoint",
            "engine": {**base, **(engine or {})},
            "serving": serving,
            "stores": ["file:///store"],
        }
    )


def made(folder: Path, wanted: Recipe, generation: str, *, tp: int = 1, batch: int = 8) -> Path:
    """Assembled and placed; the engine is empty files of the right names."""
    samples.write(
        folder / "checkpoint",
        {"tokenizer.json": json.dumps({"version": "1.0"}), "config.json": "{}", "generation_config.json": "{}"},
    )
    engine: dict[str, str | bytes] = {"config.json": samples.engine_config(tp=tp, batch=batch, version=VERSIONS[generation])}
    samples.write(folder / "engine", {**engine, **{f"rank{rank}.engine": b"engine" for rank in range(tp)}})
    (folder / "unplaced").mkdir()
    assemble(
        engine=folder / "engine",
        checkpoint=folder / "checkpoint",
        recipe=wanted,
        output=folder / "unplaced",
        template=template_folder(generation),
    )
    write_placement(place(folder / "unplaced", 3, str(folder / "placed")), folder / "placed")
    return folder / "placed"


def config(repository: Path, model: str) -> Any:
    file = repository / model / "config.pbtxt"
    return parse_config(file.read_bytes(), str(file))


# ------------------------------------------------------------------------------------------------------------------
# What comes out
# ------------------------------------------------------------------------------------------------------------------


def speculating(mode: str) -> dict[str, Any]:
    return {"options": {"build": {"speculative_decoding_mode": mode, "max_draft_len": 63}}}


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "with BLS": ({}, {"bls": True}),
    "not streamed": ({}, {"streaming": False, "bls": True}),
    "two GPUs": ({"parallelism": {"tensor": 2}}, {"parameters": {"gpu_device_ids": "0,1"}}),
    "orchestrator": (
        {"parallelism": {"tensor": 2}},
        {"multi_gpu": "orchestrator", "parameters": {"gpu_device_ids": "0,1;2,3", "participant_ids": "1,2;3,4"}},
    ),
    "KV cache": (
        {},
        {"parameters": {"kv_cache_free_gpu_mem_fraction": 0.5, "enable_kv_cache_reuse": True, "kv_cache_host_memory_bytes": 1}},
    ),
    "LoRA": (
        {"options": {"build": {"lora_plugin": "auto"}}},
        {"parameters": {"lora_cache_max_adapter_size": 64, "lora_cache_gpu_memory_fraction": 0.05}},
    ),
    "medusa": (speculating("medusa"), {"parameters": {"decoding_mode": "medusa", "medusa_choices": "{0}, {0, 0}, {1}"}}),
    "eagle": (speculating("eagle"), {"parameters": {"decoding_mode": "eagle", "eagle_choices": "{0},{0,0}"}}),
    "redrafter": (speculating("explicit_draft_tokens"), {"parameters": {"decoding_mode": "redrafter"}}),
    "FP16 logits": ({}, {"parameters": {"logits_datatype": "TYPE_FP16"}, "bls": True}),
    "scheduler": (
        {},
        {"parameters": {"batch_scheduler_policy": "max_utilization", "enable_chunked_context": True, "max_queue_size": 100}},
    ),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("case", SETTINGS)
def test_every_generation_validates_clean_with_nothing_left_unfilled(generation: str, case: str, tmp_path: Path) -> None:
    engine, serving = SETTINGS[case]
    tp = engine.get("parallelism", {}).get("tensor", 1)
    placed = made(tmp_path, recipe(generation, engine=engine, **serving), generation, tp=tp)
    assert validate(placed).findings == ()
    for file in placed.glob("*/config.pbtxt"):
        assert "${" not in file.read_text()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_models_are_named_after_the_recipe_and_find_each_other(generation: str, tmp_path: Path) -> None:
    placed = made(tmp_path, recipe(generation, bls=True), generation)
    assert sorted(p.name for p in placed.iterdir()) == [
        "llama",
        "llama-bls",
        "llama-engine",
        "llama-postprocessing",
        "llama-preprocessing",
    ]
    steps = config(placed, "llama").ensemble_scheduling.step
    assert [(s.model_name, s.model_version) for s in steps] == [
        ("llama-preprocessing", 3),
        ("llama-engine", 3),
        ("llama-postprocessing", 3),
    ]
    engine = config(placed, "llama-engine")
    assert engine.backend == "tensorrtllm"
    assert engine.parameters["gpt_model_path"].string_value == f"{placed}/./llama-engine/3/engine"
    for model in ("llama-preprocessing", "llama-postprocessing", "llama-bls"):
        value = config(placed, model).parameters["tokenizer_dir"].string_value
        assert value == f"{placed}/./llama-preprocessing/3/tokenizer"


def test_batch_size_goes_to_every_model_and_the_queue(tmp_path: Path) -> None:
    wanted = recipe(engine={"limits": {"max_batch_size": 5}}, parameters={"max_queue_delay_microseconds": 250})
    placed = made(tmp_path, wanted, "tensorrt_llm_1_0")
    assert {config(placed, p.name).max_batch_size for p in placed.iterdir()} == {5}
    queue = config(placed, "llama-engine").dynamic_batching
    assert list(queue.preferred_batch_size) == [5]
    assert queue.max_queue_delay_microseconds == 250


def test_a_batch_size_above_the_engines_is_found(tmp_path: Path) -> None:
    placed = made(tmp_path, recipe(engine={"limits": {"max_batch_size": 16}}), "tensorrt_llm_1_0", batch=8)
    assert "max_batch_size is 16, but the engine was built for 8" in [f.message for f in validate(placed).errors]


@pytest.mark.parametrize("streaming", [True, False])
def test_decoupled_is_the_same_on_engine_and_bls(streaming: bool, tmp_path: Path) -> None:
    placed = made(tmp_path, recipe(streaming=streaming, bls=True), "tensorrt_llm_1_0")
    for model in ("llama-engine", "llama-bls"):
        assert config(placed, model).model_transaction_policy.decoupled is streaming


@pytest.mark.parametrize("logits", ["TYPE_FP16", "TYPE_FP32"])
def test_data_types_are_the_same_on_all_models(logits: str, tmp_path: Path) -> None:
    parameters = {"logits_datatype": logits, "prompt_embedding_table_data_type": "TYPE_BF16"}
    placed = made(tmp_path, recipe(bls=True, parameters=parameters), "tensorrt_llm_1_0")
    found: dict[str, set[int]] = {}
    for model, kind in itertools.product(("llama", "llama-engine", "llama-bls"), ("input", "output")):
        for tensor in getattr(config(placed, model), kind):
            found.setdefault(tensor.name, set()).add(tensor.data_type)
    assert all(len(found[name]) == 1 for name in ("context_logits", "generation_logits", "prompt_embedding_table"))


def test_each_set_of_gpus_is_an_instance() -> None:
    wanted = recipe(parameters={"gpu_device_ids": "0;1;2"})
    engine = next(p for p in plan_models(wanted) if p.source == "engine").values
    assert engine.instance_group is not None
    assert engine.instance_group.count == 3


def test_a_newer_generation_has_the_newer_names(tmp_path: Path) -> None:
    names = {}
    for generation in GENERATIONS:
        placed = made(tmp_path / generation, recipe(generation), generation)
        names[generation] = {tensor.name for tensor in config(placed, "llama").input}
    assert {"min_length", "random_seed", "return_kv_cache_reuse_stats"} <= names["tensorrt_llm_0_18"]
    assert {"min_length", "random_seed", "return_perf_metrics"} <= names["tensorrt_llm_0_19"]
    assert {"min_tokens", "seed", "return_perf_metrics", "return_num_input_tokens"} <= names["tensorrt_llm_1_0"]


# ------------------------------------------------------------------------------------------------------------------
# Parameters
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "said", "fix"),
    [
        ({"kv_cache_free_gpu_memory_fraction": 0.9}, "has no parameter", "did you mean 'kv_cache_free_gpu_mem_fraction'?"),
        ({"kv_cache_free_gpu_mem_fraction": 1.5}, "is 1.5; it must be from 0 to 1", ""),
        ({"kv_cache_free_gpu_mem_fraction": "0.9"}, "must be a number from 0 to 1, not '0.9'", ""),
        ({"enable_chunked_context": "true"}, "must be true or false", ""),
        ({"enable_chunked_context": 1}, "must be true or false", ""),
        ({"batch_scheduler_policy": "guaranteed_completion"}, "one of: guaranteed_no_evict, max_utilization", ""),
        ({"decoding_mode": "medussa"}, "one of: top_k", ""),
        ({"gpt_model_type": "V1"}, "one of: inflight_fused_batching", ""),
        ({"max_tokens_in_paged_kv_cache": 0}, "at least 1", ""),
        ({"max_tokens_in_paged_kv_cache": True}, "must be a whole number", ""),
        ({"gpu_device_ids": "0,,1"}, "for example 0,1", ""),
        ({"gpu_device_ids": "0,1"}, "each set must name 1 different GPUs", ""),
        ({"gpu_device_ids": "0;0"}, "GPU 0 is in two sets", "each GPU once"),
        ({"gpu_device_ids": "0;00"}, "GPU 0 is in two sets", "each GPU once"),
        ({"gpu_device_ids": "1"}, "there is no GPU 1 among 1, counted from 0 (engine.gpu.count)", ""),
        ({"decoding_mode": "medusa"}, "is medusa, but the engine is built without speculative decoding", "mode: medusa and max"),
        ({"decoding_mode": "redrafter"}, "without speculative decoding", "mode: explicit_draft_tokens"),
        ({"participant_ids": "1"}, "is for serving.multi_gpu: orchestrator", ""),
        ({"medusa_choices": "{0}"}, "is for decoding_mode medusa", ""),
        ({"medusa_choices": "[[0]]", "decoding_mode": "medusa"}, "which it cannot be", ""),
        ({"lookahead_window_size": 4, "decoding_mode": "lookahead"}, "the three lookahead sizes go together", ""),
        ({"cross_kv_cache_fraction": 0.5}, "encoder-decoder models only", ""),
        ({"guided_decoding_backend": "xgrammar"}, "needs xgrammar_tokenizer_info_path", ""),
        ({"gpu_weights_percent": 0.5}, "weight_streaming", ""),
        ({"max_beam_width": 4}, "engine.limits.max_beam_width", ""),
        ({"decoding_mode": "beam_search"}, "max_beam_width is 1", ""),
        ({"engine_dir": "/x"}, "enginepress sets it to the engine that it built", ""),
        ({"triton_max_batch_size": 4}, "set engine.limits.max_batch_size", ""),
        ({"decoupled_mode": True}, "set serving.streaming", ""),
        ({"multimodal_model_path": "/x"}, "images and video are not served", ""),
        ({"postprocessing_instance_count": 4}, "always 1", ""),
        ({"max_attention_window_size": 0}, "cannot be", ""),
        ({"max_attention_window_size": "4096,0"}, "cannot be", ""),
        ({"lora_prefetch_dir": "${dir}"}, "cannot be", ""),
        ({"executor_worker_path": "/opt/${worker}"}, "placeholders", ""),
        ({"batching_strategy": "inflight_batching", "gpt_model_type": "inflight_batching"}, "is the same parameter", ""),
        ({"num_nodes": 2}, "engine.gpu.nodes is 1", ""),
        ({"lora_cache_max_adapter_size": 8}, "has no effect without options.build.lora_plugin", "leave it out"),
        ({"lora_prefetch_dir": "/adapters"}, "has no effect without options.build.lora_plugin", "leave it out"),
        ({"bls_instance_count": 2}, "has no effect without serving.bls", "or set serving.bls"),
        ({"cuda_graph_cache_size": 9, "cuda_graph_mode": False}, "has no effect without cuda_graph_mode", ""),
        ({"speculative_decoding_fast_logits": True}, "has no effect without options.build.speculative_decoding_mode", ""),
    ],
)
def test_bad_parameters_are_refused_with_value_and_remedy(parameters: dict[str, Any], said: str, fix: str) -> None:
    wanted = recipe(engine={"gpu": {"name": "H100-SXM5-80GB"}}, parameters=parameters)
    with pytest.raises(RecipeError) as caught:
        plan_models(wanted)
    assert said in caught.value.message
    assert str(caught.value.where).startswith("serving.parameters.")
    assert fix in (caught.value.fix or "")


def test_a_parameter_of_a_newer_release_is_refused_naming_it() -> None:
    with pytest.raises(RecipeError, match="it has it from tensorrt_llm_0_19 on"):
        plan_models(recipe("tensorrt_llm_0_18", parameters={"num_nodes": 1}))


def test_two_sets_of_several_gpus_need_the_orchestrator() -> None:
    wanted = recipe(engine={"parallelism": {"tensor": 2}}, parameters={"gpu_device_ids": "0,1;2,3"})
    with pytest.raises(RecipeError, match="multi_gpu: leader") as caught:
        plan_models(wanted)
    assert caught.value.fix == "set serving.multi_gpu: orchestrator"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"gpu_device_ids": "0,1;1,9"}, "GPU 1 is in two sets"),
        ({"gpu_device_ids": "0,1;2,9"}, "there is no GPU 9 among 4"),
        ({"participant_ids": "1,2;2,3"}, "rank 2 is named twice"),
    ],
)
def test_no_gpu_is_given_away_twice_and_none_that_is_not_there(parameters: dict[str, Any], said: str) -> None:
    engine = {"gpu": {"name": "H100-SXM5-80GB", "count": 4}, "parallelism": {"tensor": 2}}
    with pytest.raises(RecipeError) as caught:
        plan_models(recipe(engine=engine, multi_gpu="orchestrator", parameters=parameters))
    assert said in caught.value.message


def test_an_engine_that_speculates_in_another_way_is_named() -> None:
    wanted = recipe(engine=speculating("eagle"), parameters={"decoding_mode": "medusa"})
    with pytest.raises(RecipeError, match=r"is medusa, but the engine is built for eagle \(engine\.options"):
        plan_models(wanted)


def values_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    if parameter.kind == "bool":
        return st.booleans()
    if parameter.kind == "fraction":
        return st.floats(0, 1) | st.sampled_from([0, 1])
    if parameter.kind == "int":
        return st.integers(parameter.least, parameter.most or 2**40)
    if parameter.kind == "pattern":
        return st.from_regex(parameter.pattern.replace(r"/.+", "/[a-z]+"), fullmatch=True)
    return st.sampled_from(parameter.choices)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_value_that_a_parameter_may_have_is_written_and_read_back(data: st.DataObject) -> None:
    generation = data.draw(st.sampled_from(GENERATIONS))
    parameter = data.draw(st.sampled_from([p for p in PARAMETERS if p.known_in(generation)]))
    value = data.draw(values_of(parameter))
    if isinstance(value, str) and any(ord(c) < 32 for c in value):
        return  # refused, see above
    text = read_parameters({parameter.name: value}, generation)[parameter]
    if isinstance(value, bool):
        assert text == str(value).lower()
    elif isinstance(value, float):
        assert float(text) == pytest.approx(value, rel=1e-8)
    else:
        assert text == str(value)


@given(name=st.text(max_size=30), value=st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans()))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_there_is_read_or_refused_in_words(name: str, value: Any) -> None:
    refused = []
    for key in (name, *(p.name for p in PARAMETERS[:8])):
        try:
            read_parameters({key: value}, "tensorrt_llm_1_0")
        except RecipeError as error:
            refused.append((key, error.where))
    assert all(where == f"serving.parameters.{key}" for key, where in refused)
