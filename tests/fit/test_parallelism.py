"""Over how many GPUs a model may be spread: what is refused, with field, value, limit and remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines import gpus
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit.parallelism import (
    check_parallelism,
    expert_split,
    parallelism_problems,
    usable_tensor_sizes,
)
from enginepress.errors import RecipeError
from enginepress.recipe import Parallelism
from tests.fit.models import NAMES, config, recipe


def _spread(gpu: str = "H100-SXM5-80GB", count: int = 1, nodes: int = 1, **fields: Any) -> Any:
    serving = fields.pop("serving", None)
    engine = {name: fields.pop(name) for name in ("precision", "builder") if name in fields}
    return recipe(gpu, count=count, nodes=nodes, serving=serving, parallelism=fields, **engine)


@pytest.mark.parametrize(
    ("model", "spread", "where", "value", "remedy"),
    [
        ("llama-3.1-8b", _spread(count=3, tensor=3), "engine.parallelism.tensor", "3", "use 1, 2 or 4"),
        ("qwen2.5-7b", _spread(count=8, tensor=8), "engine.parallelism.tensor", "8", "use 2, 4, 7 or 14"),
        ("llama-3.1-8b", _spread(count=33, pipeline=33), "engine.parallelism.pipeline", "33", "use 32 or less"),
        ("llama-3.1-405b", _spread(count=4, pipeline=4), "engine.parallelism.pipeline", "4", "use 1, 2, 3 or 6"),
        ("llama-3.1-8b", _spread(count=1, tensor=2), "engine.gpu.count", "takes 2 GPUs", "set engine.gpu.count to 2"),
        ("llama-3.1-8b", _spread(count=8, tensor=2), "engine.gpu.count", "2 of 8 GPUs", "gpu_device_ids"),
        ("llama-3.1-8b", _spread(count=2, context=2, builder="vllm"), "engine.parallelism.context", "2", "use 1"),
        ("mixtral-8x7b", _spread(count=2, context=2), "engine.parallelism.context", "2", "use 1"),
        ("llama-3.1-8b", _spread(count=2, tensor=2, moe_expert=2), "engine.parallelism.moe_expert", "no experts", "leave"),
        (
            "mixtral-8x7b",
            _spread(count=8, tensor=8, moe_tensor=2, moe_expert=2),
            "engine.parallelism.moe_tensor",
            "is 4 and must be engine.parallelism.tensor, 8",
            "moe_expert 8",
        ),
    ],
)
def test_an_impossible_spread_is_refused(model: str, spread: Any, where: str, value: str, remedy: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_parallelism(read_shape(config(model)), spread)
    assert caught.value.where == where
    assert value in caught.value.message
    assert remedy in str(caught.value.fix)


def test_key_value_heads_are_divided_or_copied() -> None:
    shape = read_shape(config("llama-3.1-405b"))  # 128 heads, 8 of keys and values
    assert usable_tensor_sizes(shape, recipe(), 64) == [1, 2, 4, 8, 16, 32, 64]
    twelve = read_shape(config("llama-3.1-8b", num_attention_heads=24, num_key_value_heads=4, intermediate_size=12288))
    problem = parallelism_problems(twelve, _spread(count=6, tensor=6))[0]
    assert "neither divides the model's 4 key/value heads nor is a multiple" in problem.message


def test_a_width_that_does_not_divide_is_refused() -> None:
    odd = read_shape(config("llama-3.1-8b", intermediate_size=14337))
    assert "14337" in parallelism_problems(odd, _spread(count=2, tensor=2))[0].message


def test_groups_of_awq_must_stay_whole_on_every_rank() -> None:
    qwen = read_shape(
        config("llama-3.1-8b", intermediate_size=29568, num_attention_heads=64, num_key_value_heads=8)
    )  # Qwen2.5-72B
    problems = parallelism_problems(qwen, _spread(count=8, tensor=8, precision="int4_awq"))
    assert "3696" in problems[0].message
    assert not parallelism_problems(qwen, _spread(count=8, tensor=8, precision="fp8"))


def test_every_layer_is_kept_by_an_engine_and_uneven_stages_are_for_the_others() -> None:
    shape = read_shape(config("llama-3.1-405b"))
    assert parallelism_problems(shape, _spread(count=4, pipeline=4))
    assert not parallelism_problems(shape, _spread(count=4, pipeline=4, builder="llmapi"))


def test_idle_gpus_are_allowed_when_instances_are_named() -> None:
    shape = read_shape(config("llama-3.1-8b"))
    assert not parallelism_problems(shape, _spread(count=4, tensor=2, serving={"parameters": {"gpu_device_ids": "0,1;2,3"}}))


@pytest.mark.parametrize(
    ("fields", "tensor", "expert"),
    [
        ({"tensor": 8}, 8, 1),
        ({"tensor": 8, "moe_expert": 4}, 2, 4),
        ({"tensor": 8, "moe_tensor": 2}, 2, 4),
        ({"tensor": 8, "moe_tensor": 1, "moe_expert": 8}, 1, 8),
    ],
)
def test_what_is_left_out_of_an_expert_split_follows(fields: dict[str, int], tensor: int, expert: int) -> None:
    split = expert_split(Parallelism(**fields))  # type: ignore[arg-type]
    assert (split.tensor, split.expert) == (tensor, expert)


def test_experts_are_dealt_out_evenly() -> None:
    shape = read_shape(config("mixtral-8x7b", num_attention_heads=48, num_key_value_heads=16, intermediate_size=14336 * 3))
    problems = parallelism_problems(shape, _spread(count=16, tensor=16, moe_tensor=1, moe_expert=16))
    assert [p.where for p in problems] == ["engine.parallelism.moe_expert"]
    assert "8 experts" in problems[0].message


def test_experts_that_are_shared_are_divided_in_whole_groups_of_awq() -> None:
    shape = read_shape(config("qwen3-30b-a3b"))  # experts of 768 columns
    problems = parallelism_problems(shape, _spread(count=4, tensor=4, precision="int4_awq"))
    assert "192 of 768" in problems[0].message
    assert "moe_expert: 4" in problems[0].fix
    assert not parallelism_problems(shape, _spread(count=4, tensor=4, moe_tensor=1, moe_expert=4, precision="int4_awq"))
    assert not parallelism_problems(shape, _spread(count=4, tensor=4, precision="fp8"))


# Wiring ---------------------------------------------------------------------------------------------------------------


def test_tensor_parallelism_over_two_nodes_is_refused_with_pipeline_in_its_place() -> None:
    shape, gpu = read_shape(config("llama-3.1-405b")), gpus.find("H100-SXM5-80GB")
    problems = parallelism_problems(shape, _spread(count=8, nodes=2, tensor=16), gpu)
    assert [p.where for p in problems] == ["engine.parallelism.tensor"]
    assert problems[0].fix == "use tensor 8 and pipeline 2"
    assert not parallelism_problems(shape, _spread(count=8, nodes=2, tensor=8, pipeline=2), gpu)


def test_an_nvlink_domain_of_a_whole_rack_takes_tensor_parallelism_over_its_nodes() -> None:
    shape, gpu = read_shape(config("llama-3.1-405b")), gpus.find("GB200")
    assert not parallelism_problems(shape, _spread("GB200-186GB", count=4, nodes=2, tensor=8), gpu)


def test_a_group_may_not_lie_on_two_nodes() -> None:
    shape = read_shape(config("llama-3.1-405b", num_attention_heads=96, intermediate_size=53248 * 3, num_key_value_heads=2))
    problems = parallelism_problems(shape, _spread(count=4, nodes=3, tensor=6, pipeline=2), gpus.find("H100-SXM5-80GB"))
    assert any("groups of 6" in p.message for p in problems)


def test_mig_instances_cannot_work_together() -> None:
    gpu = gpus.find("H100-SXM5-80GB-MIG-3g.40gb")
    problems = parallelism_problems(read_shape(config("llama-3.1-8b")), _spread(gpu.name, count=2, tensor=2), gpu)
    assert "MIG instances cannot exchange data" in problems[0].message


SIZES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 16])


@given(st.sampled_from(NAMES), st.sampled_from(["tensorrt_llm", "llmapi", "vllm"]), SIZES, SIZES, SIZES, SIZES)
def test_what_is_accepted_divides_heads_layers_and_nodes(
    model: str, builder: str, tensor: int, pipeline: int, count: int, nodes: int
) -> None:
    shape, gpu = read_shape(config(model)), gpus.find("H100-SXM5-80GB")
    spread = _spread(count=count, nodes=nodes, tensor=tensor, pipeline=pipeline, builder=builder)
    problems = parallelism_problems(shape, spread, gpu)
    assert all(p.where and p.message and p.fix for p in problems)
    if not problems:
        assert shape.heads % tensor == 0
        assert tensor * pipeline == count * nodes
        assert tensor <= count, "a group of tensor parallelism lies on one node"
        assert pipeline <= shape.layers
        assert builder != "tensorrt_llm" or shape.layers % pipeline == 0


@given(st.sampled_from(NAMES))
def test_sizes_that_are_said_to_be_usable_are(model: str) -> None:
    shape = read_shape(config(model))
    for size in usable_tensor_sizes(shape, recipe(), 16):
        assert not parallelism_problems(shape, _spread(count=size, tensor=size))
