"""The longest prompt: what the plan promises is what the served model takes."""

from __future__ import annotations

from typing import Any

import pytest

from enginepress.engines import fit
from enginepress.engines.fit import FitPlan
from enginepress.engines.prompts import longest_prompt, paged_context, wants_chunks
from enginepress.engines.tensorrt_llm.build_command import plan_build
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.repository.plans import llmapi, plan_models
from tests.fit.models import config, recipe

LONG = {"max_sequence_length": 32768, "max_num_tokens": 1024, "max_input_length": 32000}


def plan_of(of: Recipe, model: str = "llama-3.1-8b") -> FitPlan:
    gpu, container = fit.gpu_and_container(of)
    return fit.plan(config(model), None, of, gpu, container)


def chunked(of: Recipe) -> str | None:
    """What the engine's config says of chunks."""
    models = {plan.source: plan for plan in plan_models(of)}
    return models["engine"].values.parameters.get("enable_chunked_context")


def test_prompts_longer_than_a_pass_are_computed_in_pieces_unless_the_recipe_says_otherwise() -> None:
    of = recipe("H100-SXM5-80GB", limits=LONG)
    assert chunked(of) == "true"
    assert plan_of(of).longest_prompt == 32000
    assert plan_of(of).fits
    assert chunked(recipe("H100-SXM5-80GB", limits={"max_sequence_length": 4096})) is None, "a pass takes the longest prompt"
    assert chunked(recipe("H100-SXM5-80GB")) == "true", "the model may be made for any length"
    assert chunked(recipe("H100-SXM5-80GB", limits=LONG, serving={"parameters": {"enable_chunked_context": False}})) == "false"


@pytest.mark.parametrize(
    ("engine", "serving", "words"),
    [
        ({"kv_cache": "int8"}, {}, "no paged context FMHA"),
        ({"kv_cache": "fp8"}, {}, "no paged context FMHA"),
        ({"options": {"build": {"use_paged_context_fmha": "disable"}}}, {}, "use_paged_context_fmha is off"),
        ({}, {"parameters": {"enable_chunked_context": False}}, "enable_chunked_context is false"),
    ],
)
def test_a_longer_prompt_than_a_pass_is_refused_where_it_cannot_be_cut(
    engine: dict[str, Any], serving: dict[str, Any], words: str
) -> None:
    of = recipe("H200-SXM5-141GB", limits=LONG, serving=serving, **engine)
    plan = plan_of(of)
    assert [p.where for p in plan.problems] == ["engine.limits.max_input_length"]
    assert words in plan.problems[0].message
    assert "longest prompt that is served has 1024" in plan.problems[0].message
    assert (("engine.limits.max_num_tokens", 32000),) in [c.fields for c in plan.changes]
    unsaid = plan_of(recipe("H200-SXM5-141GB", limits={**LONG, "max_input_length": None}, serving=serving, **engine))
    assert unsaid.fits
    assert unsaid.longest_prompt == 1024
    assert any("longer prompts than 1024 tokens are refused" in note for note in unsaid.notes)


@pytest.mark.parametrize("kv_cache", [None, "fp8", "int8"])
@pytest.mark.parametrize("precision", ["float16", "fp8", "int4_awq"])
def test_what_the_plan_says_of_the_engine_is_what_is_built(kv_cache: str | None, precision: str) -> None:
    of = recipe("H100-SXM5-80GB", precision=precision, kv_cache=kv_cache)
    built = plan_build(config("llama-3.1-8b"), of, version="1.2.1", sm="90")
    assert (built["--use_paged_context_fmha"] == "enable") == paged_context(of)


def test_asking_for_pieces_where_the_engine_cannot_is_refused() -> None:
    of = recipe("H100-SXM5-80GB", kv_cache="int8", serving={"parameters": {"enable_chunked_context": True}})
    with pytest.raises(RecipeError, match="int8"):
        plan_models(of)


def test_the_llm_api_is_told_to_compute_long_prompts_in_pieces() -> None:
    of = recipe("H100-SXM5-80GB", builder="llmapi", limits=LONG)
    assert wants_chunks(of)
    assert llmapi.arguments(of)["enable_chunked_prefill"] is True
    off = recipe("H100-SXM5-80GB", builder="llmapi", limits=LONG, serving={"engine_args": {"enable_chunked_prefill": False}})
    assert llmapi.arguments(off)["enable_chunked_prefill"] is False
    assert longest_prompt(off, 32768) == 1024
    short = recipe("H100-SXM5-80GB", builder="llmapi", limits={"max_sequence_length": 4096})
    assert "enable_chunked_prefill" not in llmapi.arguments(short)


def test_latent_attention_is_cut_only_where_the_llm_api_does_it() -> None:
    of = recipe("RTX-6000-Ada", builder="llmapi", limits=LONG)
    assert longest_prompt(of, 32768, latent=True, sm="89") == 1024
    assert longest_prompt(of, 32768, latent=True, sm="90") == 32000
