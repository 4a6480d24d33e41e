"""The smallest change: what is offered really fits when it is applied, and a plan only gets better with more memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.engines import fit, gpus
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.gpu_plan import FitPlan, largest
from enginepress.engines.fit.problem import Problem
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from tests.fit.models import NAMES, config, recipe


def plan_of(model: str, of: Recipe) -> FitPlan:
    gpu, container = fit.gpu_and_container(of)
    return fit.plan(config(model), None, of, gpu, container)


RECIPES = st.builds(
    lambda gpu, builder, precision, tensor, pipeline, nodes, batch, length, beams: recipe(
        gpu,
        builder=builder,
        precision=precision,
        count=tensor * pipeline,
        nodes=nodes,
        parallelism={"tensor": tensor, "pipeline": pipeline * nodes},
        limits={"max_batch_size": batch, "max_beam_width": beams, **({"max_sequence_length": length} if length else {})},
    ),
    st.sampled_from(
        [gpu.name for gpu in gpus.load_gpus()] + ["H100-SXM5-80GB-MIG-1g.10gb", "A30-MIG-2g.12gb", "B200-180GB-MIG-3g.90gb"]
    ),
    st.sampled_from(["tensorrt_llm", "llmapi", "vllm"]),
    st.sampled_from(["float16", "bfloat16", "float32", "fp8", "int4_awq", "nvfp4", "int8"]),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([1, 8, 64, 2048]),
    st.sampled_from([None, 512, 4096, 8192, 100_000]),
    st.sampled_from([1, 1, 4]),
)


@settings(max_examples=150)
@given(st.sampled_from(NAMES), RECIPES)
def test_every_change_that_is_offered_makes_it_fit(model: str, of: Recipe) -> None:
    plan = plan_of(model, of)
    assert not (plan.fits and plan.changes)
    for change in plan.changes:
        applied = change.apply(of)
        assert Recipe.model_validate(applied.model_dump()) == applied, "it is a valid recipe"
        assert plan_of(model, applied).problems == (), change.text


@settings(max_examples=150)
@given(st.sampled_from(NAMES), RECIPES, st.floats(1, 4))
def test_more_memory_never_makes_a_fitting_plan_not_fit(model: str, of: Recipe, factor: float) -> None:
    gpu, container = fit.gpu_and_container(of)
    plan = fit.plan_without_changes(config(model), None, of, gpu, container)
    larger = dataclasses.replace(gpu, memory_bytes=int(gpu.memory_bytes * factor))
    with_more = fit.plan_without_changes(config(model), None, of, larger, container)
    assert plan.fits <= with_more.fits
    assert plan.largest_batch <= with_more.largest_batch
    assert plan.largest_sequence <= with_more.largest_sequence
    assert plan.largest_sequence_at_batch <= with_more.largest_sequence_at_batch


@settings(max_examples=150)
@given(st.sampled_from(NAMES), RECIPES, st.integers(1, 200_000))
def test_a_shorter_request_never_makes_a_fitting_plan_not_fit(model: str, of: Recipe, length: int) -> None:
    plan = plan_of(model, of)
    shorter = Change((("engine.limits.max_sequence_length", max(8, min(length, plan.sequence))),), "").apply(of)
    assert plan.fits <= plan_of(model, shorter).fits


@settings(max_examples=150)
@given(st.sampled_from(NAMES), RECIPES)
def test_the_largest_batch_and_context_fit_and_one_more_does_not(model: str, of: Recipe) -> None:
    plan = plan_of(model, of)
    beams = of.engine.limits.max_beam_width
    assert plan.largest_batch * plan.request <= max(0, plan.cache_pool) < (plan.largest_batch + 1) * plan.request
    if plan.largest_sequence:
        assert plan.cache.rank_request(plan.largest_sequence, beams) <= plan.cache_pool
    if plan.largest_sequence < plan.shape.context:
        assert plan.cache.rank_request(plan.largest_sequence + 64, beams) > plan.cache_pool
    assert plan.largest_sequence_at_batch <= plan.largest_sequence


@settings(max_examples=100)
@given(st.sampled_from(NAMES), RECIPES)
def test_a_refusal_says_what_to_do(model: str, of: Recipe) -> None:
    try:
        refused: RecipeError | None = None
        fit.check(config(model), of)
    except RecipeError as error:
        refused = error
    if refused is not None:
        assert refused.exit_status == 2
        assert refused.where
        assert refused.fix


@pytest.mark.parametrize(
    ("model", "of", "first"),
    [
        ("llama-3.1-8b", recipe("L4"), ("engine.limits.max_sequence_length",)),
        ("llama-3-8b", recipe("H100-SXM5-80GB-MIG-1g.20gb", limits={"max_batch_size": 4096}), ("engine.limits.max_batch_size",)),
        ("llama-3-8b", recipe("A100-SXM4-40GB", precision="fp8"), ("engine.precision",)),
        ("mixtral-8x7b", recipe("H100-SXM5-80GB", precision="bfloat16"), ("engine.precision",)),
        ("llama-3-8b", recipe("V100-SXM2-32GB"), ("engine.gpu.name",)),
        ("qwen2.5-7b", recipe("L4", count=8, parallelism={"tensor": 8}), ("engine.parallelism.tensor", "engine.gpu.count")),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_the_smallest_change_comes_first(model: str, of: Recipe, first: tuple[str, ...]) -> None:
    assert tuple(name for name, _ in plan_of(model, of).changes[0].fields) == first


def test_as_few_sequences_fewer_are_offered_as_needed() -> None:
    """What 4096 requests take beside the cache are their logits: 2 GiB."""
    of = recipe("H100-SXM5-80GB-MIG-1g.20gb", limits={"max_batch_size": 4096, "max_num_tokens": 4096})
    change = next(c for c in plan_of("llama-3-8b", of).changes if c.fields[0][0] == "engine.limits.max_batch_size")
    requests = change.fields[0][1]
    assert 1000 < requests < 4096
    assert plan_of("llama-3-8b", change.apply(of)).fits
    assert not plan_of("llama-3-8b", Change((("engine.limits.max_batch_size", requests + 1),), "").apply(of)).fits


def test_a_larger_mig_profile_is_offered_before_other_gpus() -> None:
    plan = plan_of("llama-3-8b", recipe("H100-SXM5-80GB-MIG-1g.10gb", precision="bfloat16"))
    named = [dict(change.fields).get("engine.gpu.name") for change in plan.changes]
    assert "H100-SXM5-80GB-MIG-1g.20gb" in named


def test_two_changes_together_are_offered_where_none_is_enough() -> None:
    plan = plan_of("llama-3.1-405b", recipe("L40S", precision="bfloat16"))
    assert plan.changes
    assert all(len(change.fields) > 1 for change in plan.changes)


def test_what_saves_as_much_as_what_is_impossible_is_offered_first() -> None:
    int8 = plan_of("llama-3-8b", recipe("A100-SXM4-40GB", precision="fp8")).changes[0]
    assert dict(int8.fields) == {"engine.precision": "int8"}
    four = plan_of("llama-3-8b", recipe("H100-SXM5-80GB", precision="nvfp4")).changes[0]
    assert dict(four.fields) == {"engine.precision": "int4_awq"}


def test_several_nodes_are_offered_only_unserved_and_for_candidate() -> None:
    of = recipe("H100-SXM5-80GB", precision="bfloat16", count=8, parallelism={"tensor": 8}, channels=("candidate", "production"))
    nodes = next(c for c in plan_of("llama-3.1-405b", of).changes if "engine.gpu.nodes" in dict(c.fields))
    assert dict(nodes.fields)["checks.served"] is False
    assert dict(nodes.fields)["channels"] == ["candidate"]


@pytest.mark.parametrize(("served", "channels"), [(True, ["candidate"]), (True, ["production"]), (True, ["production", "x"])])
def test_several_nodes_that_are_served_or_go_further_are_refused(served: bool, channels: list[str]) -> None:
    spread = {"tensor": 8, "pipeline": 2}
    base: dict[str, Any] = {"precision": "bfloat16", "count": 8, "nodes": 2, "parallelism": spread}
    of = recipe("H100-SXM5-80GB", served=served, channels=tuple(channels), **base)
    plan = plan_of("llama-3.1-405b", of)
    wheres = {p.where for p in plan.problems}
    assert wheres == ({"checks.served"} if served else set()) | ({"channels"} if channels != ["candidate"] else set())
    assert plan_of("llama-3.1-405b", plan.changes[0].apply(of)).fits


@given(st.integers(0, 5000), st.integers(1, 5000), st.integers(1, 128))
def test_largest_finds_the_last_that_holds(limit: int, most: int, step: int) -> None:
    found = largest(lambda n: n <= limit, most, step)
    assert found == (most if limit >= most else limit // step * step)


def test_a_change_to_what_measures_nothing_leaves_the_texts_out() -> None:
    """Texts that nothing reads are refused, so no change may be offered that keeps them."""
    from enginepress.engines import get_builder
    from enginepress.errors import EnginepressError

    def objections(tried: Recipe, _gpu: object, _container: object) -> list[Problem]:
        try:
            get_builder("tensorrt_llm").check(config("llama-3.1-8b"), tried)
        except EnginepressError as error:
            return [Problem(error.where or "", error.message, error.fix or "")]
        return []

    texts = {"data": "/texts.txt"}
    of = recipe("A100-SXM4-80GB", precision="fp8", calibration=texts)
    found = fit.with_changes(plan_of("llama-3.1-8b", of), None, objections)
    int8 = next(change for change in found.changes if dict(change.fields).get("engine.precision") == "int8")
    assert dict(int8.fields)["engine.calibration"] is None
    assert "engine.calibration: null" in int8.text
    for change in found.changes:
        tried = change.apply(of)
        assert objections(tried, None, None) == []
        assert plan_of("llama-3.1-8b", tried).fits
    idle = recipe("H100-SXM5-80GB", precision="int8", calibration=texts)
    gpu, container = fit.gpu_and_container(idle)
    refused = plan_of("llama-3.1-8b", idle)
    refused = dataclasses.replace(refused, problems=(*refused.problems, *objections(idle, gpu, container)))
    change = fit.with_changes(refused, None, objections).changes[0]
    assert change.fields == (("engine.calibration", None),)
    assert "texts to measure" not in change.why


def test_a_change_reads_like_a_recipe() -> None:
    change = Change((("engine.gpu.count", 2), ("checks.served", False), ("channels", ["candidate"])), "why")
    assert change.text == "engine.gpu.count: 2, checks.served: false, channels: [candidate]"
