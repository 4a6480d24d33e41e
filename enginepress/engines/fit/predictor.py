"""Layers of the checkpoint's own that guess further tokens (multi-token prediction, MTP): each keeps keys and values as well.

llmapi   `speculative_config` of decoding_type MTP: as many as `num_nextn_predict_layers` there (1 if it is not said) in releases
         up to 1.2, as many as config.json has, or one, in later ones. Cautiously the larger number. They lie on the last stage of
         a pipeline (NVIDIA/TensorRT-LLM tensorrt_llm/_torch/speculative/utils.py: `get_num_spec_layers`,
         `update_spec_config_from_model_config` @011d0933dcb5e592f5fa2626beaf42a96324c578).
vllm     `speculative_config` whose method is mtp or ends so: as many as config.json has, or one (vllm 0.24.0,
         vllm/config/speculative.py: `hf_config_override`, vllm/model_executor/models/deepseek_mtp.py).

Their weights are in the checkpoint's files, and so in the plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.parallelism import attention_ranks, stage_layers
from enginepress.recipe import Recipe
from enginepress.repository.plans.engine_args import draft_model

if TYPE_CHECKING:
    from enginepress.engines.fit.cache import Cache


def predictor_layers(shape: Shape, recipe: Recipe) -> int:
    """How many such layers speculate; 0 if the recipe asks for none, or another model does it."""
    speculation = recipe.serving.engine_args.get("speculative_config")
    if not isinstance(speculation, dict) or draft_model(recipe.serving.engine_args) is not None:
        return 0
    own = max(1, shape.predictor_layers)
    if recipe.engine.builder == "llmapi":
        return max(own, _number(speculation.get("num_nextn_predict_layers"))) if speculation.get("decoding_type") == "MTP" else 0
    method = speculation.get("method")
    return own if isinstance(method, str) and (method == "mtp" or method.endswith("_mtp")) else 0


def with_predictor(cache: Cache, shape: Shape, recipe: Recipe) -> Cache:
    """The cache with these layers'. A window is for the model's own layers: these keep all tokens."""
    more = predictor_layers(shape, recipe)
    if not more:
        return cache
    most = stage_layers(shape, recipe)
    # The last stage has the fewest layers of its own, unless the recipe divides them.
    said = recipe.serving.engine_args.get("pp_partition") if recipe.engine.builder == "llmapi" else None
    last = said[-1] if isinstance(said, list) and said else shape.layers // recipe.engine.parallelism.pipeline
    here, copies = max(most, last + more), attention_ranks(recipe)
    one_rank = cache.rank_token / most
    return replace(
        cache,
        rank_token=one_rank * here,
        all_token=cache.all_token + more * one_rank * copies * recipe.engine.parallelism.context,
        windowed=cache.windowed * most / here,
    )


def _number(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
