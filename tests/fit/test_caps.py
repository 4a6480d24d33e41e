"""What a recipe says of the KV cache beside its share of the memory, and what spreads or fills GPUs otherwise than by ranks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.engines import fit
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit.cache import cache_of
from enginepress.engines.fit.gpu_plan import FitPlan
from enginepress.engines.fit.weights import weights_of
from enginepress.recipe import Recipe
from tests.fit.models import NAMES, config, recipe
from tests.fit.test_changes import plan_of

GIB = 2**30


def cached(dtype: str | None = None, **more: Any) -> dict[str, Any]:
    return {"engine_args": {"kv_cache_config": {**({"dtype": dtype} if dtype else {}), **more}}}


@pytest.mark.parametrize(
    ("builder", "serving", "field", "says"),
    [
        (
            "tensorrt_llm",
            {"parameters": {"max_tokens_in_paged_kv_cache": 1024}},
            "serving.parameters.max_tokens_in_paged_kv_cache",
            "1024 tokens, 0.1 GiB a rank",
        ),
        ("llmapi", cached(max_tokens=1024), "serving.engine_args.kv_cache_config.max_tokens", "1024 tokens"),
        ("llmapi", cached(max_gpu_total_bytes=GIB // 2), "serving.engine_args.kv_cache_config.max_gpu_total_bytes", "bytes"),
        ("vllm", {"engine_args": {"num_gpu_blocks_override": 64}}, "serving.engine_args.num_gpu_blocks_override", "1024 tokens"),
        ("vllm", {"engine_args": {"kv_cache_memory_bytes": 1000}}, "serving.engine_args.kv_cache_memory_bytes", "1000 bytes"),
    ],
)
def test_a_limit_below_one_request_is_refused_and_leaving_it_out_is_offered(
    builder: str, serving: dict[str, Any], field: str, says: str
) -> None:
    of = recipe("H100-SXM5-80GB", builder=builder, precision="bfloat16", serving=serving)
    plan = plan_of("llama-3-8b", of)
    assert [problem.where for problem in plan.problems] == [field]
    assert says in plan.problems[0].message
    assert "1.0 GiB" in plan.problems[0].message, "of one request of 8192 tokens"
    changed = plan.changes[0].apply(of)
    assert field.rpartition(".")[2] not in str(changed.serving.parameters) + str(changed.serving.engine_args)
    assert plan_of("llama-3-8b", changed).fits


def test_a_limit_that_leaves_room_counts_and_is_said() -> None:
    limited = recipe(
        "H100-SXM5-80GB", limits={"max_batch_size": 64}, serving={"parameters": {"max_tokens_in_paged_kv_cache": 16384}}
    )
    plan = plan_of("llama-3-8b", limited)
    assert (plan.fits, plan.full_requests, plan.cache_pool) == (True, 2, 2 * GIB)
    assert any("max_tokens_in_paged_kv_cache limits the KV cache to 16384 tokens" in note for note in plan.notes)


@pytest.mark.parametrize(("dtype", "factor"), [("fp8", 2), ("auto", 1), (None, 1)])
def test_the_llm_apis_own_type_of_cache_is_counted(dtype: str | None, factor: int) -> None:
    of = recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving=cached(dtype))
    assert cache_of(read_shape(config("llama-3-8b")), of).rank_token == 131_072 / factor


def test_the_llm_apis_windows_are_counted_as_the_backends_are() -> None:
    shape = read_shape(config("gemma-2-9b"))
    windows = cached(max_attention_window=[4096, 8192])
    told = cache_of(shape, recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving=windows))
    backend = recipe(serving={"parameters": {"max_attention_window_size": "4096,8192"}})
    assert told.rank_request(8192) == cache_of(shape, backend).rank_request(8192)


def test_the_usual_share_is_offered_to_the_llm_api_too() -> None:
    of = recipe("L4", builder="llmapi", precision="bfloat16", serving=cached(free_gpu_memory_fraction=0.1, dtype="auto"))
    plan = plan_of("llama-3-8b", of)
    assert plan.changes[0].fields == (
        ("serving.engine_args.kv_cache_config", {"free_gpu_memory_fraction": 0.9, "dtype": "auto"}),
    )
    assert plan.changes[0].text.endswith("{dtype: auto, free_gpu_memory_fraction: 0.9}")


def test_attention_by_data_parallelism_is_whole_on_every_rank() -> None:
    shape = read_shape(config("llama-3-8b"))
    spread: dict[str, Any] = {"builder": "llmapi", "precision": "bfloat16", "count": 4, "parallelism": {"tensor": 4}}
    shared = recipe("H100-SXM5-80GB", **spread)
    alone = recipe("H100-SXM5-80GB", serving={"engine_args": {"enable_attention_dp": True}}, **spread)
    assert cache_of(shape, alone).rank_token == 4 * cache_of(shape, shared).rank_token == cache_of(shape, alone).all_token
    attention = shape.layers * shape.attention_parameters * 2
    embeddings = 2 * shape.embedding_parameters * 2
    more = weights_of(shape, alone, None).rank - weights_of(shape, shared, None).rank
    assert more == pytest.approx(3 / 4 * (attention + embeddings), rel=1e-6)


def test_requests_of_ranks_that_have_their_own_are_told_apart() -> None:
    spread: dict[str, Any] = {"builder": "llmapi", "precision": "bfloat16", "count": 4, "parallelism": {"tensor": 4}}
    alone = recipe("H100-SXM5-80GB", serving={"engine_args": {"enable_attention_dp": True}}, **spread)
    said = "numbers of requests are those of one rank, and 4 ranks take them"
    assert any(said in note for note in plan_of("llama-3-8b", alone).notes)
    assert not any(said in note for note in plan_of("llama-3-8b", recipe("H100-SXM5-80GB", **spread)).notes)


def test_copies_of_the_model_take_gpus_of_their_own() -> None:
    doubled = {"engine_args": {"data_parallel_size": 2}}
    one = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", builder="vllm", precision="bfloat16", serving=doubled))
    assert [problem.where for problem in one.problems] == ["engine.gpu.count"]
    assert "data_parallel_size 2 takes 2 GPUs" in one.problems[0].message
    two = recipe("H100-SXM5-80GB", builder="vllm", precision="bfloat16", serving=doubled, count=2)
    assert plan_of("llama-3-8b", two).fits


SPECULATION: dict[str, dict[str, Any]] = {
    "vllm": {"model": "/draft", "num_speculative_tokens": 3},
    "llmapi": {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "/draft"},
}


def speculating(builder: str, **engine: Any) -> Recipe:
    serving = {"engine_args": {"speculative_config": SPECULATION[builder]}}
    return recipe("H100-SXM5-80GB", builder=builder, precision="bfloat16", serving=serving, **engine)


@pytest.mark.parametrize("builder", ["vllm", "llmapi"])
def test_a_draft_model_whose_folder_was_not_read_is_said_to_be_missing_from_the_plan(builder: str) -> None:
    plan = plan_of("llama-3-8b", speculating(builder))
    said = "the draft model of serving.engine_args.speculative_config.(model|speculative_model) is not in this plan"
    assert any(re.match(said, note) for note in plan.notes)


def drafting(of: Recipe, name: str = "qwen2.5-7b", weights: int = 10 * GIB) -> fit.Draft:
    named = fit.named_draft(of)
    assert named is not None
    return replace(named, shape=read_shape(config(name)), weight_bytes=weights, unseen="")


@pytest.mark.parametrize("builder", ["vllm", "llmapi"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_draft_model_counts_with_its_weights_and_its_own_kv_cache(builder: str, tensor: int) -> None:
    of = speculating(builder, count=tensor, parallelism={"tensor": tensor})
    gpu, container = fit.gpu_and_container(of)
    without = fit.plan(config("llama-3-8b"), None, of, gpu, container)
    found = fit.plan(config("llama-3-8b"), None, of, gpu, container, draft=drafting(of))
    assert (found.draft_weights, found.fixed - without.fixed) == (10 * GIB // tensor, 10 * GIB // tensor)
    assert found.cache.rank_token - without.cache.rank_token == 2 * 28 * (4 // tensor) * 128 * 2, "28 layers, 4 key heads of 128"
    assert found.cache_pool < without.cache_pool - 8 * GIB // tensor
    assert not any("draft" in note for note in found.notes)


def test_a_draft_model_that_one_gpu_has_alone_is_whole_there() -> None:
    of = speculating("vllm", count=2, parallelism={"tensor": 2})
    speculation = {**of.serving.engine_args["speculative_config"], "draft_tensor_parallel_size": 1}
    of = of.model_copy(update={"serving": of.serving.model_copy(update={"engine_args": {"speculative_config": speculation}})})
    gpu, container = fit.gpu_and_container(of)
    assert fit.plan(config("llama-3-8b"), None, of, gpu, container, draft=drafting(of)).draft_weights == 10 * GIB


def test_a_draft_model_that_does_not_fit_beside_the_model_is_refused_and_stays_in_every_change() -> None:
    of = speculating("vllm")
    gpu, container = fit.gpu_and_container(of)
    draft = drafting(of, weights=70 * GIB)
    found = fit.plan(config("llama-3-8b"), None, of, gpu, container, draft=draft)
    assert "a draft model of 70.0 GiB" in found.problems[0].message
    assert found.changes
    for change in found.changes:
        tried = change.apply(of)
        on, row = fit.gpu_and_container(tried)
        assert fit.plan(config("llama-3-8b"), None, tried, on, row, draft=draft).fits


def predicting(builder: str, speculation: dict[str, Any] | None, **more: Any) -> Recipe:
    spread: dict[str, Any] = {"count": 8, "parallelism": {"tensor": 8}, "precision": "fp8", **more}
    serving = {"engine_args": {"speculative_config": speculation} if speculation else {}}
    return recipe("B200-180GB", builder=builder, serving=serving, **spread)


@pytest.mark.parametrize(
    ("builder", "speculation", "of_config", "more"),
    [
        ("llmapi", {"decoding_type": "MTP"}, 1, 1),
        ("llmapi", {"decoding_type": "MTP", "num_nextn_predict_layers": 3}, 1, 3),
        ("llmapi", {"decoding_type": "MTP", "num_nextn_predict_layers": 1}, 2, 2),
        ("llmapi", {"decoding_type": "MTP"}, None, 1),
        ("llmapi", {"decoding_type": "NGram", "max_draft_len": 3}, 1, 0),
        ("vllm", {"method": "mtp", "num_speculative_tokens": 3}, 1, 1),
        ("vllm", {"method": "deepseek_mtp", "num_speculative_tokens": 1}, 2, 2),
        ("vllm", {"method": "ngram", "num_speculative_tokens": 3}, 1, 0),
    ],
)
def test_layers_that_predict_further_tokens_have_a_kv_cache_of_their_own(
    builder: str, speculation: dict[str, Any], of_config: int | None, more: int
) -> None:
    says = {"num_nextn_predict_layers": of_config} if of_config is not None else {}
    alone, found = (
        fit.plan(config("deepseek-v3", **says), None, of, *fit.gpu_and_container(of))
        for of in (predicting(builder, None), predicting(builder, speculation))
    )
    one = 576 * 2
    assert found.cache.rank_token - alone.cache.rank_token == pytest.approx(more * one)
    assert alone.cache.rank_token == pytest.approx(61 * one)
    assert found.cache.all_token - alone.cache.all_token == pytest.approx(more * one * 8)
    assert any(f"{more} further layer" in note for note in found.notes) is bool(more)
    assert any("config.json names none" in note for note in found.notes) is (more > 0 and of_config is None)


def test_layers_that_predict_lie_on_the_last_stage() -> None:
    def tokens(speculation: dict[str, Any] | None) -> float:
        spread = {"count": 8, "parallelism": {"tensor": 4, "pipeline": 2}}
        return plan_of("deepseek-v3", predicting("llmapi", speculation, **spread)).cache.rank_token / (576 * 2)

    assert tokens(None) == pytest.approx(31), "61 layers in two stages"
    assert tokens({"decoding_type": "MTP"}) == pytest.approx(31), "30 and one"
    assert tokens({"decoding_type": "MTP", "num_nextn_predict_layers": 3}) == pytest.approx(33), "30 and three"


LORA_BUILD = {"lora_plugin": "auto", "max_lora_rank": 16, "lora_target_modules": "attn_q attn_v"}
ADAPTER = 32 * 2 * 16 * ((4096 + 4096) + (4096 + 1024))
"""Bytes of an adapter of rank 16 for queries and values of Llama-3-8B: 32 layers, 16 bit."""


def test_the_engines_cache_for_adapters_is_a_share_of_what_the_kv_cache_leaves() -> None:
    plain = plan_of("llama-3-8b", recipe("H100-SXM5-80GB"))
    parameters = {"lora_cache_gpu_memory_fraction": 0.5}
    plan = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", options={"build": LORA_BUILD}, serving={"parameters": parameters}))
    assert plan.adapters is not None
    left = plain.memory - plain.fixed
    assert plan.adapters.adapter == ADAPTER
    assert plan.adapters.bytes == pytest.approx((left - plain.cache_pool) / 2, abs=2)
    assert (plan.fits, plan.cache_pool, plan.fixed) == (True, plain.cache_pool, plain.fixed)
    assert any(f"holds {plan.adapters.count} LoRA adapters of rank 16" in note for note in plan.notes)


def test_a_cache_that_holds_no_adapter_is_refused_with_what_to_raise_or_lower() -> None:
    build = {"lora_plugin": "auto", "max_lora_rank": 256}
    of = recipe("H100-SXM5-80GB", options={"build": build})
    plan = plan_of("llama-3-8b", of)
    assert [p.where for p in plan.problems] == ["serving.parameters.lora_cache_gpu_memory_fraction"]
    assert "one adapter of rank 256 takes 1280 MiB" in plan.problems[0].message
    assert "engine.options.build.max_lora_rank" in plan.problems[0].fix
    assert dict(plan.changes[0].fields) == {"serving.parameters.lora_cache_gpu_memory_fraction": 0.3}
    assert plan_of("llama-3-8b", plan.changes[0].apply(of)).fits


def test_the_llm_apis_share_for_adapters_is_raised_beside_what_stands_there() -> None:
    lora = {"lora_config": {"max_lora_rank": 256}, "peft_cache_config": {"device_cache_percent": 0.001, "num_put_workers": 2}}
    of = recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving={"engine_args": lora})
    change = plan_of("llama-3-8b", of).changes[0]
    assert dict(change.fields) == {"serving.engine_args.peft_cache_config": {"device_cache_percent": 0.1, "num_put_workers": 2}}


def test_the_llm_apis_cache_for_adapters_is_taken_before_the_kv_cache() -> None:
    lora = {"lora_config": {"max_lora_rank": 16, "lora_target_modules": ["attn_q", "attn_v"], "max_loras": 1000}}
    plain = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16"))
    of = recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving={"engine_args": lora})
    plan = plan_of("llama-3-8b", of)
    assert plan.adapters is not None
    assert (plan.adapters.bytes, plan.adapters.count) == (1000 * ADAPTER, 1000)
    assert plan.cache_pool == pytest.approx(plain.cache_pool - 0.9 * 1000 * ADAPTER, abs=2)
    share = {"engine_args": {"enable_lora": True, "peft_cache_config": {"device_cache_percent": 0.25}}}
    by_share = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving=share))
    assert by_share.cache_pool == pytest.approx(0.75 * plain.cache_pool, abs=2)


@pytest.mark.parametrize("modules", [["mlp_gate"], ["moe_gate"], [["attn_q"]], 8.5, None])
def test_an_adapter_of_experts_alone_or_of_nothing_that_can_be_is_planned_like_any_other(modules: Any) -> None:
    lora = {"engine_args": {"lora_config": {"lora_target_modules": modules}}}
    plan = plan_of("mixtral-8x7b", recipe("B200-180GB", builder="llmapi", precision="bfloat16", serving=lora))
    assert plan.adapters is not None
    assert plan.adapters.adapter == 2 * 64 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024)), "rank 64, attention of 32 layers"


@pytest.mark.parametrize(("samples", "more", "said"), [(33, {}, True), (32, {}, False), (33, {"converter": "modelopt"}, False)])
def test_texts_that_awq_does_not_take_are_said_to_be_left(samples: int, more: dict[str, Any], said: bool) -> None:
    texts = {"data": "/texts.txt", "samples": samples}
    plan = plan_of("llama-3-8b", recipe("L40S", precision="int4_awq", calibration=texts, **more))
    assert ("quantize.py measures int4_awq with 32 texts, not 33" in plan.notes) is said


def test_the_stage_with_most_layers_is_planned_where_the_recipe_divides_them() -> None:
    def plan(layers: list[int] | None) -> FitPlan:
        serving = {"engine_args": {"pp_partition": layers}} if layers else {}
        spread: dict[str, Any] = {"count": 2, "parallelism": {"pipeline": 2}}
        return plan_of("llama-3-8b", recipe("H100-SXM5-80GB", builder="llmapi", precision="bfloat16", serving=serving, **spread))

    assert plan([24, 8]).cache.rank_token == plan(None).cache.rank_token * 24 // 16
    assert plan([24, 8]).weights.rank > plan(None).weights.rank
    assert [p.where for p in plan([24, 9]).problems] == ["serving.engine_args.pp_partition"]
    assert "does not divide 32 layers into 2 stages" in plan([32]).problems[0].message


def test_a_vocabulary_that_ranks_cannot_share_evenly_is_padded_and_biases_are_counted() -> None:
    odd = read_shape(config("qwen2.5-7b", vocab_size=152_065))
    of = recipe("H100-SXM5-80GB", builder="vllm", precision="bfloat16", count=4, parallelism={"tensor": 4})
    rows, hidden = 38_017, odd.hidden_size
    layer = hidden * 128 * (2 * 7 + 2 * 1) + 128 * (7 + 2 * 1) + 3 * hidden * odd.intermediate_size / 4
    wanted = 2 * (28 * layer + 2 * rows * hidden + (2 * 28 + 1) * hidden)
    assert weights_of(odd, of, None).rank == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("engine", "whole"),
    [
        ({}, True),
        ({"precision": "int8"}, True),
        ({"options": {"convert": {"use_parallel_embedding": True}}}, False),
        ({"converter": "modelopt"}, False),
        ({"precision": "fp8", "calibration": {"data": "/texts.txt"}}, False),
        ({"precision": "fp8", "options": {"convert": {"use_fp8_rowwise": True}}}, True),
        ({"kv_cache": "fp8", "calibration": {"data": "/texts.txt"}}, False),
    ],
)
def test_the_input_embedding_is_whole_on_each_rank_only_where_the_script_leaves_it_so(
    engine: dict[str, Any], whole: bool
) -> None:
    """ModelOpt shares it among ranks: two ranks of a Qwen2 took 79 MB on an H200, where 95 MB were planned."""
    shape = read_shape(config("llama-3-8b"))
    two = recipe("H100-SXM5-80GB", count=2, parallelism={"tensor": 2}, **engine)
    weights = weights_of(shape, two, None)
    matrices = (weights.ranks - weights.total) - 2 * (2 * shape.layers + 1) * shape.hidden_size
    assert (matrices > 0) == whole, "more than norms lies on both"


def test_weights_that_are_rounded_while_they_are_loaded_take_16_bits_on_disk_before() -> None:
    by_tool = recipe("H100-SXM5-80GB", precision="int8", converter="modelopt")
    by_script = recipe("H100-SXM5-80GB", precision="int8")
    plans = [plan_of("llama-3-8b", of) for of in (by_tool, by_script)]
    assert plans[0].host.disk - plans[1].host.disk == pytest.approx(1.1 * (16.06e9 - plans[1].weights.ranks), rel=0.01)


SERVING = st.one_of(
    st.builds(lambda n: ("tensorrt_llm", {"parameters": {"max_tokens_in_paged_kv_cache": n}}), st.integers(1, 10**6)),
    st.builds(
        lambda n, share, dtype: ("llmapi", cached(dtype, max_tokens=n, free_gpu_memory_fraction=share)),
        st.integers(1, 10**6),
        st.floats(0.01, 1),
        st.sampled_from(["auto", "fp8"]),
    ),
    st.builds(
        lambda n, share: ("vllm", {"engine_args": {"kv_cache_memory_bytes": n, "gpu_memory_utilization": share}}),
        st.integers(1, 2**40),
        st.floats(0.01, 1),
    ),
)


@settings(max_examples=80)
@given(st.sampled_from(NAMES), SERVING, st.sampled_from(["L4", "A100-SXM4-40GB", "H100-SXM5-80GB"]), st.sampled_from([1, 8, 256]))
def test_changes_that_are_offered_to_a_limited_cache_make_it_fit(
    model: str, served: tuple[str, dict[str, Any]], gpu: str, batch: int
) -> None:
    builder, serving = served
    of = recipe(gpu, builder=builder, precision="bfloat16", serving=serving, limits={"max_batch_size": batch})
    plan = plan_of(model, of)
    for change in plan.changes:
        applied = change.apply(of)
        assert Recipe.model_validate(applied.model_dump()) == applied
        assert plan_of(model, applied).problems == (), change.text
