"""What one should know of a plan although it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginepress.engines.fit.parallelism import attention_ranks
from enginepress.engines.fit.predictor import predictor_layers
from enginepress.engines.fit.sizes import mib
from enginepress.engines.prompts import why_whole

if TYPE_CHECKING:
    from enginepress.engines.fit.gpu_plan import FitPlan
    from enginepress.recipe import Recipe


def notes_of(plan: FitPlan) -> list[str]:
    engine, notes = plan.recipe.engine, []
    if plan.request and 0 < plan.full_requests < plan.batch:
        longest = plan.largest_sequence_at_batch
        notes.append(
            f"{plan.full_requests} of {plan.batch} requests run at once if all have {plan.sequence} tokens; the others wait"
            + (f". All {plan.batch} run at once up to {longest} tokens" if longest else "")
        )
    if plan.longest_prompt < min(plan.recipe.engine.limits.max_input_length or plan.sequence, plan.sequence - 1):
        notes.append(f"longer prompts than {plan.longest_prompt} tokens are refused, since {whole(plan)}")
    if plan.cap is not None:
        notes.append(f"{plan.cap.field} limits the KV cache to {plan.cap.said}, less than its share of the memory")
    if plan.draft is not None and plan.draft.shape is None:
        missing = "is not in this plan, neither its weights nor its KV cache"
        notes.append(f"the draft model of {plan.draft.field} {missing}: {plan.draft.unseen}")
    if (layers := predictor_layers(plan.shape, plan.recipe)) > 0:
        said = f"{layers} further layer{'s' * (layers > 1)} that speculate{'s' * (layers == 1)}"
        none = "" if plan.shape.predictor_layers else "; config.json names none, so the server may refuse to load the model"
        notes.append(f"the KV cache is planned with {said}{none}")
    if plan.adapters is not None and plan.adapters.count:
        each = f"rank {plan.adapters.rank} ({mib(plan.adapters.adapter)} each)"
        notes.append(f"a GPU holds {plan.adapters.count} LoRA adapters of {each} at once")
    if (left := _texts_left(plan.recipe)) is not None:
        notes.append(left)
    if plan.shape.windowed_layers and plan.cache.window is None:
        why = (
            "though vLLM may keep less" if engine.builder == "vllm" else "since the runtime keeps them unless it is told a window"
        )
        notes.append(
            f"{plan.shape.windowed_layers} of {plan.shape.layers} layers look back {plan.shape.window} tokens only; the cache is "
            f"planned for all tokens, {why}"
        )
    if engine.parallelism.tensor > attention_ranks(plan.recipe):
        notes.append(
            "each rank has requests of its own (enable_attention_dp): numbers of requests are those of one rank, and "
            f"{engine.parallelism.tensor} ranks take them"
        )
    elif plan.shape.latent is not None:
        notes.append("multi-head latent attention: the KV cache is one compressed vector a token, the same on every rank")
    group = engine.parallelism.tensor * engine.parallelism.context
    if group > plan.gpu.nvlink and plan.gpu.parent is None:
        linked = f"NVLink joins {plan.gpu.nvlink} of them" if plan.gpu.nvlink > 1 else "they have no NVLink"
        notes.append(f"{group} {plan.gpu.name} exchange data in every layer, and {linked}: expect it to be slow")
    if plan.weights.by_files and plan.shape.quantization is None:
        notes.append("the checkpoint's files are larger than its config.json says; the weights are planned by the files")
    if plan.shape.quantization is not None:
        notes.append("the checkpoint is quantized already; its weights are planned as they are in its files")
    if engine.gpu is not None and engine.gpu.nodes > 1:
        notes.append("on several nodes the release is unserved: nothing has asked it anything before it is published")
    return notes


def _texts_left(recipe: Recipe) -> str | None:
    """quantize.py takes a few texts for AWQ, whatever it is told."""
    from enginepress.engines.tensorrt_llm.quantize_rules import AWQ_SAMPLES

    engine = recipe.engine
    if engine.builder != "tensorrt_llm" or engine.converter != "image" or engine.precision not in ("int4_awq", "w4a8_awq"):
        return None
    if engine.calibration is None or engine.calibration.samples <= AWQ_SAMPLES:
        return None
    return f"quantize.py measures {engine.precision} with {AWQ_SAMPLES} texts, not {engine.calibration.samples}"


def whole(plan: FitPlan) -> str | None:
    """Why prompts are computed in one pass, if they are."""
    return why_whole(plan.recipe, latent=plan.shape.latent is not None, sm=plan.gpu.sm)
