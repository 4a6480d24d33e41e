"""Well-known models on well-known GPUs: numbers that can be looked up, and verdicts that everybody knows."""

from __future__ import annotations

from typing import Any

import pytest

from enginepress.engines import fit, gpus, versions
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit.cache import cache_of
from enginepress.engines.fit.gpu_plan import FitPlan
from enginepress.engines.fit.sizes import GB, GIB, MIB
from enginepress.engines.fit.weights import weights_of
from enginepress.engines.fit.working import activations_of, cache_pool, overhead_of
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from tests.fit.models import NAMES, config, recipe

EIGHT = {"count": 8, "parallelism": {"tensor": 8}}


def plan_of(model: str, of: Recipe, weight_bytes: int | None = None) -> FitPlan:
    gpu, container = fit.gpu_and_container(of)
    return fit.plan(config(model), weight_bytes, of, gpu, container)


# KV cache -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [
        ("llama-3-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("mixtral-8x7b", 131_072),
        ("qwen2.5-7b", 57_344),
        ("qwen3-30b-a3b", 98_304),
        ("gemma-2-9b", 344_064),
        ("deepseek-v3", 61 * 576 * 2),
    ],
)
def test_kv_cache_of_a_token(model: str, bytes_per_token: int) -> None:
    assert cache_of(read_shape(config(model)), recipe()).all_token == bytes_per_token


def test_llama_3_8b_in_16_bit_fits_on_an_l4_with_one_gib_of_cache_for_8192_tokens() -> None:
    plan = plan_of("llama-3-8b", recipe("L4"))
    assert plan.fits
    assert plan.request == plan.request_all == GIB
    assert plan.sequence == 8192
    assert plan.weights.rank == pytest.approx(16.06 * GB, rel=0.001)
    assert 3 <= plan.full_requests <= 5, "22.5 GiB - 15 GiB of weights - about 2 GiB"


@pytest.mark.parametrize(("kv_cache", "factor"), [("fp8", 0.5), ("int8", 0.5)])
def test_a_cache_of_eight_bits_is_half_as_large(kv_cache: str, factor: float) -> None:
    assert plan_of("llama-3-8b", recipe("L4", kv_cache=kv_cache)).request == factor * GIB


def test_key_value_heads_are_copied_when_there_are_fewer_than_ranks() -> None:
    shape = read_shape(config("qwen2.5-7b"))  # 4 key/value heads
    four, fourteen = (cache_of(shape, recipe(parallelism={"tensor": n})) for n in (4, 14))
    assert four.rank_token == 57_344 / 4
    assert fourteen.rank_token == four.rank_token
    assert fourteen.all_token == 57_344 / 4 * 14


def test_pipeline_and_context_parallelism_divide_the_cache() -> None:
    shape = read_shape(config("llama-3.1-70b"))
    assert cache_of(shape, recipe(parallelism={"pipeline": 4})).rank_token == 327_680 / 4
    assert cache_of(shape, recipe(parallelism={"context": 2})).rank_token == 327_680 / 2


def test_latent_attention_is_the_same_on_every_rank() -> None:
    shape = read_shape(config("deepseek-v3"))
    one, eight = (cache_of(shape, recipe(parallelism={"tensor": n})) for n in (1, 8))
    assert one.rank_token == eight.rank_token == 61 * 576 * 2


def test_a_window_saves_nothing_unless_the_runtime_is_told_of_it() -> None:
    shape = read_shape(config("mistral-7b-v0.1"))
    told = recipe(serving={"parameters": {"max_attention_window_size": 4096}})
    assert cache_of(shape, recipe()).rank_request(32768) == 4 * GIB
    assert cache_of(shape, told).rank_request(32768) == GIB / 2
    assert any("look back 4096" in note for note in plan_of("mistral-7b-v0.1", recipe("A100-SXM4-40GB")).notes)


def test_windows_of_every_other_layer_save_a_part() -> None:
    told = recipe(serving={"parameters": {"max_attention_window_size": "4096,8192"}})
    cache = cache_of(read_shape(config("gemma-2-9b")), told)
    assert cache.rank_request(8192) == 344_064 * 6144
    assert cache.rank_request(1024) == 344_064 * 1024


def test_beams_take_a_cache_each() -> None:
    beams = recipe(limits={"max_beam_width": 4, "max_batch_size": 1})
    assert plan_of("llama-3-8b", beams).request == 4 * GIB


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "precision", "gigabytes"),
    [
        ("llama-3.1-8b", "bfloat16", 16.06),
        ("llama-3.1-8b", "float32", 32.12),
        ("llama-3.1-8b", "fp8", 9.08),  # nvidia/Llama-3.1-8B-Instruct-FP8 has 9.08 GB
        ("llama-3.1-8b", "int4_awq", 5.81),
        ("llama-3.1-8b", "nvfp4", 6.03),  # nvidia/Llama-3.1-8B-Instruct-NVFP4 has 6.03 GB
        ("llama-3.1-70b", "bfloat16", 141.1),
        ("llama-3.1-70b", "fp8", 72.7),  # nvidia/Llama-3.3-70B-Instruct-FP8 has 72.7 GB
        ("llama-3.1-405b", "bfloat16", 811.7),
        ("mixtral-8x7b", "bfloat16", 93.4),
    ],
)
def test_weights_on_one_gpu(model: str, precision: str, gigabytes: float) -> None:
    of = recipe(precision=precision, builder="llmapi")
    assert weights_of(read_shape(config(model)), of, None).rank / GB == pytest.approx(gigabytes, rel=0.01)


def test_embeddings_are_not_quantized() -> None:
    shape = read_shape(config("llama-3.1-8b"))
    eight = weights_of(shape, recipe(precision="fp8"), None).rank
    assert eight - shape.block_parameters == pytest.approx(2 * (2 * shape.embedding_parameters), rel=0.001)


def test_tensor_parallelism_divides_all_but_the_input_embedding_of_an_engine() -> None:
    shape = read_shape(config("llama-3.1-70b"))
    eight = weights_of(shape, recipe(parallelism={"tensor": 8}), None).rank
    rest = 2 * (shape.block_parameters + shape.embedding_parameters) / 8
    assert eight == pytest.approx(rest + 2 * shape.embedding_parameters, rel=0.001)
    split = recipe(parallelism={"tensor": 8}, options={"convert": {"use_parallel_embedding": True}})
    assert weights_of(shape, split, None).rank == pytest.approx(rest + 2 * shape.embedding_parameters / 8, rel=0.001)


def test_all_ranks_hold_everything_once_and_the_input_embedding_each() -> None:
    shape = read_shape(config("llama-3.1-70b"))
    spread = weights_of(shape, recipe(parallelism={"tensor": 4, "pipeline": 2}), None)
    assert spread.ranks == pytest.approx(spread.total + 3 * 2 * shape.embedding_parameters, rel=0.001)
    assert spread.total == pytest.approx(141.1 * GB, rel=0.001)


def test_pipeline_parallelism_divides_layers_and_puts_one_embedding_at_each_end() -> None:
    shape = read_shape(config("llama-3.1-70b"))
    rank = weights_of(shape, recipe(parallelism={"pipeline": 4}), None).rank
    assert rank == pytest.approx(2 * (shape.block_parameters / 4 + shape.embedding_parameters), rel=0.001)


def test_experts_are_divided_by_tensor_whichever_way() -> None:
    shape = read_shape(config("mixtral-8x7b"))
    shared = weights_of(shape, recipe(parallelism={"tensor": 8}), None)
    dealt = weights_of(shape, recipe(parallelism={"tensor": 8, "moe_tensor": 1, "moe_expert": 8}), None)
    assert shared == dealt


def test_files_that_hold_more_than_the_shapes_say_are_believed() -> None:
    shape = read_shape(config("llama-3.1-8b"))
    by_shape = weights_of(shape, recipe(), None)
    more = weights_of(shape, recipe(), int(by_shape.checkpoint * 1.2))
    assert more.rank == pytest.approx(by_shape.rank * 1.2, rel=0.001)
    assert more.by_files
    as_said = weights_of(shape, recipe(), by_shape.checkpoint + 10_000)
    assert as_said.rank == by_shape.rank
    assert not as_said.by_files


def test_a_checkpoint_that_is_quantized_already_is_planned_as_its_files_are() -> None:
    files = 688_586_727_753
    weights = weights_of(read_shape(config("deepseek-v3")), recipe(builder="llmapi", precision="fp8", **EIGHT), files)
    assert weights.checkpoint == files
    assert weights.rank == pytest.approx(files / 8, rel=0.03)


@pytest.mark.parametrize(
    ("quantization", "gpu", "word"),
    [
        ({"quant_method": "fp8"}, "A100-SXM4-80GB", "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "A10", "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "H100-SXM5-80GB", "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "A30", "fp8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "A40", "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "A40", "w4a8_awq"),
    ],
)
def test_a_checkpoint_that_is_quantized_for_other_hardware_is_refused(quantization: Any, gpu: str, word: str) -> None:
    of = recipe(gpu, builder="llmapi", precision="bfloat16")
    container = versions.choose(of)
    plan = fit.plan(config("llama-3-8b", quantization_config=quantization), None, of, gpus.find(gpu), container)
    assert plan.problems[0].where == "config.json"
    assert f"quantized already, in {word}" in plan.problems[0].message
    assert any(dict(c.fields).get("engine.gpu.name") for c in plan.changes)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes"])
def test_a_checkpoint_that_is_quantized_for_this_hardware_is_not(method: str) -> None:
    of = recipe("L4", builder="llmapi", precision="bfloat16")
    quantized = config("llama-3-8b", quantization_config={"quant_method": method, "bits": 4})
    plan = fit.plan(quantized, None, of, *fit.gpu_and_container(of))
    assert plan.fits
    assert plan.weights.rank < 10 * GB


# What the one published log says --------------------------------------------------------------------------------------


def test_activations_and_overhead_agree_with_the_log_that_they_are_fitted_to() -> None:
    """memory.md: a 7B engine of 6695 MiB on 80 GB; context 1134 MiB; 70.48 GiB left; cache of 63.44 GiB."""
    seven = read_shape(
        config("llama-3-8b", vocab_size=32000, intermediate_size=11008, num_key_value_heads=32, max_position_embeddings=4096)
    )
    of = recipe("H100-SXM5-80GB", limits={"max_batch_size": 2048, "max_num_tokens": 8192, "max_sequence_length": 2048})
    activations = activations_of(seven, of, 2048)
    assert activations == pytest.approx(1134 * MIB, rel=0.15)
    memory = gpus.find("H100-SXM5-80GB").memory_bytes
    overhead = overhead_of(of, memory)
    left = memory - 6695 * MIB - activations - overhead
    assert left == pytest.approx(70.48 * GIB, rel=0.01)
    assert cache_pool(of, memory, 6695 * MIB + activations, overhead) == pytest.approx(63.44 * GIB, rel=0.01)


# Verdicts -------------------------------------------------------------------------------------------------------------


def test_llama_405b_in_bf16_on_eight_h100_is_refused_and_fp8_or_two_nodes_are_offered() -> None:
    of = recipe("H100-SXM5-80GB", precision="bfloat16", **EIGHT)
    with pytest.raises(RecipeError, match=r"812 GB.*640 GB") as caught:
        fit.check(config("llama-3.1-405b"), of)
    assert caught.value.exit_status == 2
    fix = str(caught.value.fix)
    assert "engine.precision: fp8" in fix
    assert "engine.gpu.nodes: 2, engine.parallelism.pipeline: 2, checks.served: false" in fix
    assert "H200" in fix


def test_llama_405b_fits_on_eight_h100_in_fp8_and_on_two_nodes_in_bf16() -> None:
    assert plan_of("llama-3.1-405b", recipe("H100-SXM5-80GB", precision="fp8", converter="modelopt", **EIGHT)).fits
    spread = {"tensor": 8, "pipeline": 2}
    two = recipe("H100-SXM5-80GB", precision="bfloat16", count=8, nodes=2, parallelism=spread, served=False)
    plan = plan_of("llama-3.1-405b", two)
    assert plan.fits
    assert any("unserved" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("model", "of"),
    [
        ("llama-3.1-8b", recipe("H100-SXM5-80GB", precision="fp8")),
        ("llama-3.1-70b", recipe("H200-SXM5-141GB", precision="fp8", count=2, parallelism={"tensor": 2})),
        ("llama-3.1-70b", recipe("H100-SXM5-80GB", precision="bfloat16", count=4, parallelism={"tensor": 4})),
        ("mixtral-8x7b", recipe("H100-SXM5-80GB", precision="bfloat16", count=2, parallelism={"tensor": 2})),
        ("qwen2.5-7b", recipe("L4", precision="int4_awq", limits={"max_sequence_length": 32768})),
        ("llama-3-8b", recipe("L4", precision="int4_awq")),
        ("gemma-2-9b", recipe("L40S", precision="bfloat16")),
        ("qwen3-30b-a3b", recipe("H100-SXM5-80GB", precision="bfloat16")),
        ("deepseek-v3", recipe("H200-SXM5-141GB", builder="llmapi", precision="fp8", **EIGHT)),
        ("llama-3-8b", recipe("H100-SXM5-80GB-MIG-3g.40gb")),
        ("llama-3-8b", recipe("NVIDIA-L4", builder="vllm")),
        ("llama-3.1-70b", recipe("B200", precision="nvfp4")),
        ("llama-3.1-8b", recipe("B300", precision="nvfp4")),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.engine.gpu.name}-{v.engine.precision}",
)
def test_what_people_run_fits(model: str, of: Recipe) -> None:
    assert plan_of(model, of).problems == ()


@pytest.mark.parametrize(
    ("model", "of"),
    [
        ("llama-3.1-8b", recipe("L4")),  # 131,072 tokens
        ("llama-3.1-70b", recipe("H100-SXM5-80GB", precision="bfloat16")),
        ("mixtral-8x7b", recipe("A100-SXM4-80GB", precision="bfloat16")),
        ("llama-3-8b", recipe("H100-SXM5-80GB-MIG-1g.10gb")),
        ("deepseek-v3", recipe("H100-SXM5-80GB", builder="llmapi", precision="fp8", **EIGHT)),
        ("llama-3-8b", recipe("T4", builder="vllm")),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.engine.gpu.name}-{v.engine.precision}",
)
def test_what_nobody_can_run_does_not_fit(model: str, of: Recipe) -> None:
    plan = plan_of(model, of)
    assert not plan.fits
    assert plan.changes


def test_a_plan_without_a_gpu_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        fit.check(config("llama-3-8b"), recipe(None))
    assert caught.value.where == "engine.gpu"


def test_several_reasons_are_told_together() -> None:
    of = recipe("A100-SXM4-80GB", precision="fp8", nodes=2, parallelism={"tensor": 3}, channels=("candidate", "production"))
    with pytest.raises(RecipeError) as caught:
        fit.check(config("llama-3.1-8b"), of)
    for part in ("fp8 is impossible", "engine.parallelism.tensor: 3", "checks.served", "production", "engine.gpu.count"):
        assert part in caught.value.message


def test_a_smaller_mig_profile_that_does_as_well_is_named() -> None:
    plan = plan_of("llama-3-8b", recipe("H100-SXM5-80GB"))
    assert any("MIG profile 3g.40gb suffices" in note for note in plan.notes)
    assert plan_of("llama-3-8b", recipe("H100-SXM5-80GB-MIG-3g.40gb")).full_requests == plan.full_requests


def test_a_longer_sequence_than_the_model_was_made_for_is_refused() -> None:
    plan = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", limits={"max_sequence_length": 9000}))
    assert [p.where for p in plan.problems] == ["engine.limits.max_sequence_length"]
    assert "8192" in plan.problems[0].message


@pytest.mark.parametrize(
    ("limits", "where"),
    [
        ({"max_input_length": 8193}, "engine.limits.max_input_length"),
        ({"max_input_length": 8192}, "engine.limits.max_input_length"),
        ({"max_num_tokens": 7}, "engine.limits.max_num_tokens"),
        ({"max_num_tokens": 31, "max_beam_width": 4}, "engine.limits.max_num_tokens"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], where: str) -> None:
    plan = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", limits=limits))
    assert [p.where for p in plan.problems] == [where]


def test_a_container_that_cannot_is_refused_by_the_plan_too() -> None:
    old = versions.load_matrix().container("25.04")
    of = recipe("B200")
    plan = fit.plan(config("llama-3-8b"), None, of, gpus.find("B200"), old)
    assert "not known to work on B200" in plan.problems[0].message


def test_tensor_parallelism_over_pcie_is_said_to_be_slow() -> None:
    plan = plan_of("llama-3-8b", recipe("L4", count=4, parallelism={"tensor": 4}))
    assert plan.fits
    assert any("no NVLink" in note for note in plan.notes)
    nvlinked = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", count=4, parallelism={"tensor": 4}))
    assert not any("NVLink" in note for note in nvlinked.notes)


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("converter", ["image", "modelopt"])
def test_converting_and_building_need_at_least_what_they_read(model: str, converter: str) -> None:
    plan = plan_of(model, recipe("B300", count=8, parallelism={"tensor": 1}, converter=converter))
    assert plan.host.convert_memory > plan.weights.checkpoint
    assert plan.host.build_memory > plan.weights.rank
    assert plan.host.disk > plan.weights.checkpoint + 2 * plan.host.store


def test_each_worker_of_a_build_needs_memory_and_there_is_one_a_gpu() -> None:
    spread: dict[str, Any] = {"count": 4, "parallelism": {"tensor": 4}}
    four = plan_of("llama-3.1-70b", recipe("H100-SXM5-80GB", precision="bfloat16", **spread))
    assert four.host.build_memory == 4 * (2 * four.weights.rank + 4 * GIB)
    one = recipe("H100-SXM5-80GB", precision="bfloat16", options={"build": {"workers": 1}}, **spread)
    assert plan_of("llama-3.1-70b", one).host.build_memory == 2 * four.weights.rank + 4 * GIB


def test_a_quantization_in_the_image_needs_gpu_memory_for_both_forms() -> None:
    plan = plan_of("llama-3.1-70b", recipe("H100-SXM5-80GB", precision="fp8", count=2, parallelism={"tensor": 2}))
    assert plan.host.convert_gpu_memory == pytest.approx(210 * GB, rel=0.03)  # workflow.md: 140 GB and 70 GB
    assert plan_of("llama-3-8b", recipe("L4")).host.convert_gpu_memory == 0


@pytest.mark.parametrize("builder", ["llmapi", "vllm"])
def test_a_checkpoint_that_is_served_as_it_is_needs_nothing_converted_or_built(builder: str) -> None:
    host = plan_of("llama-3-8b", recipe("L4", builder=builder)).host
    assert (host.convert_memory, host.build_memory) == (0, 0)
    assert host.store == pytest.approx(16.06 * GB, rel=0.001)


def test_the_share_of_memory_that_the_cache_gets_is_the_recipes() -> None:
    plain = plan_of("llama-3-8b", recipe("L4"))
    half = plan_of("llama-3-8b", recipe("L4", serving={"parameters": {"kv_cache_free_gpu_mem_fraction": 0.45}}))
    assert half.cache_pool == pytest.approx(plain.cache_pool / 2, rel=0.001)
    vllm = plan_of("llama-3-8b", recipe("L4", builder="vllm", serving={"engine_args": {"gpu_memory_utilization": 0.8}}))
    assert vllm.cache_pool < plan_of("llama-3-8b", recipe("L4", builder="vllm")).cache_pool


def test_a_plan_is_plain_json() -> None:
    import json

    for of in (recipe("L4"), recipe("H100-SXM5-80GB", precision="bfloat16", **EIGHT)):
        data = json.loads(json.dumps(plan_of("llama-3.1-405b", of).to_json(), allow_nan=False))
        assert data["fits"] is False
        assert data["problems"]
        assert data["container"]["oldest_driver"] == 580
