"""What the `tensorrt_llm` builder refuses, from config.json and the recipe alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.engines.quantized import Quantization, quantization_of, refused_by
from enginepress.engines.rope_spelling import only_new_readers
from enginepress.engines.tables import load_table
from enginepress.engines.tensorrt_llm.architectures import (
    ARCHITECTURES,
    FAMILIES,
    REFUSED,
    WHERE,
    Family,
    architecture_name,
    release_of,
)
from enginepress.engines.tensorrt_llm.convert_command import FLOATS
from enginepress.engines.tensorrt_llm.release import Target
from enginepress.engines.versions import load_matrix
from enginepress.errors import RecipeError, SourceError, UnsupportedModelError
from enginepress.recipe import Recipe

ELSEWHERE = {
    "serving": ("engine_args", "slow_path_requests", "threads", "adapters"),
}
"""Fields of other builders, refused so that none is silently ignored."""


def check_source(config: Mapping[str, Any], recipe: Recipe, folder: Path | None = None) -> None:
    """Refuses Python code of the checkpoint's own, which the conversion scripts run without being asked, and a config.json
    that they would misread.

    Args:
        folder: the checkpoint, once it is here.

    Raises:
        SourceError: naming it.
    """
    if recipe.engine.converter == "image" and only_new_readers(config):
        raise SourceError(
            "'rope_parameters' differ between kinds of layers, which only transformers 5 reads; the scripts of a container with "
            "version 4 would take base 10000 for all of them",
            where=WHERE,
            fix="use engine.builder: llmapi or vllm in a container whose transformers knows this model",
        )
    if recipe.source.trust_remote_code:
        return
    fix = "if you trust it, set source.trust_remote_code in the recipe"
    if config.get("auto_map") is not None:
        raise SourceError("'auto_map' names Python code of the checkpoint's own, which is not run", where=WHERE, fix=fix)
    code = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")) if folder is not None else []
    if code:
        raise SourceError(f"is Python code, which NVIDIA's scripts would run: {code[0]}", where=str(folder), fix=fix)


def check_fields(recipe: Recipe) -> None:
    """Refuses fields that this builder has no use for."""
    for section, fields in ELSEWHERE.items():
        values = getattr(recipe, section)
        for field in fields:
            if getattr(values, field) != type(values).model_fields[field].get_default(call_default_factory=True):
                raise RecipeError(
                    f"builder 'tensorrt_llm' has no use for '{field}'",
                    where=f"{section}.{field}",
                    fix=f"leave {section}.{field} out; parameters of Triton's model are in serving.parameters",
                )
    serving = recipe.serving
    if not serving.bls and serving.max_concurrent_requests != type(serving).model_fields["max_concurrent_requests"].default:
        raise RecipeError(
            "requests are counted by <name>-bls alone; the ensemble takes as many as the engine's queue",
            where="serving.max_concurrent_requests",
            fix="leave it out and set serving.parameters.max_queue_size, or set serving.bls: true",
        )
    if serving.multi_gpu == "orchestrator" and recipe.engine.parallelism.world_size == 1:
        raise RecipeError(
            "an engine on one GPU has no ranks that an orchestrator would start", where="serving.multi_gpu", fix="leave it out"
        )


def check_architecture(config: Mapping[str, Any], target: Target, *, others: list[str]) -> Family:
    """The family whose script converts this architecture in this release.

    Raises:
        UnsupportedModelError: if none does; names the builders that can.
    """
    name = architecture_name(config)
    known = ARCHITECTURES.get(name)
    if known is not None and release_of(target.tensorrt_llm) >= release_of(known.since):
        return FAMILIES[known.family]
    if known is not None:
        reason = f"it came with TensorRT-LLM {known.since}, and Triton {target.tag} has {target.tensorrt_llm}"
        newer = _since(known.since)
        fix = f"leave engine.container out for the newest{f', or name {newer} or newer' if newer else ''}"
        if others:
            fix += "; builders that can in this one: " + ", ".join(others)
    else:
        reason = REFUSED.get(name, "TensorRT-LLM has no conversion script for it")
        fix = "take another model: no builder here is known to run it"
        if name in load_table("served")["llmapi"]["served"]:
            fix = "use engine.builder: llmapi, whose PyTorch backend needs no conversion"
    if others and known is None:
        fix = "builders that can: " + ", ".join(others) + " (engine.builder in the recipe)"
    raise UnsupportedModelError(f"builder 'tensorrt_llm' cannot build this {name}: {reason}", where=WHERE, fix=fix)


def _since(version: str) -> str | None:
    """The first container that builds engines with this TensorRT-LLM."""
    rows = [row for row in load_matrix().of_kind("trtllm") if "tensorrt_llm" in row.builders and row.tensorrt_llm]
    able = [row.tag for row in rows if release_of(row.tensorrt_llm or "") >= release_of(version)]
    return min(able, default=None)


def check_quantized(
    config: Mapping[str, Any], recipe: Recipe, family: Family, hf_quant_config: Mapping[str, Any] | None = None
) -> Quantization | None:
    """How the checkpoint is quantized already, if it is and this family's script reads it.

    Raises:
        UnsupportedModelError: if it does not read it.
        RecipeError: if the recipe asks for another quantization on top.
    """
    quantization = quantization_of(config, hf_quant_config)
    if quantization is None:
        return None
    reason = refused_by(quantization, "tensorrt_llm")
    if reason is not None:
        raise UnsupportedModelError(reason[0], where=WHERE, fix=reason[1])
    if quantization.method not in family.quantized:
        raise UnsupportedModelError(
            f"the checkpoint is quantized already ({quantization.describe()}), which the conversion script of {family.name} "
            "does not read",
            where=WHERE,
            fix="name the checkpoint that it was made from, or use builder 'llmapi' or 'vllm'",
        )
    if recipe.engine.precision not in FLOATS:
        raise RecipeError(
            f"the checkpoint is quantized already ({quantization.describe()}), and the recipe asks for {recipe.engine.precision}",
            where="engine.precision",
            fix="set engine.precision to float16 or bfloat16, in which the rest is computed, or take the unquantized checkpoint",
        )
    return quantization


def check_family(recipe: Recipe, family: Family, target: Target) -> None:
    """Refuses parallelism that the family's script cannot do, and a cache that this GPU cannot read."""
    if recipe.engine.parallelism.pipeline > 1 and not family.pipeline:
        raise RecipeError(
            f"TensorRT-LLM's script for {family.name} has no pipeline parallelism, and the recipe asks for "
            f"{recipe.engine.parallelism.pipeline}",
            where="engine.parallelism.pipeline",
            fix="use engine.parallelism.tensor instead",
        )
    if recipe.engine.kv_cache == "fp8" and int(target.sm) < 89:
        raise RecipeError(
            f"a KV cache in fp8 needs SM 89 or newer, and {target.gpu} is SM {target.sm}",
            where="engine.kv_cache",
            fix="use int8, or leave it out",
        )
    if family.recurrent and recipe.engine.parallelism.world_size > 1:
        raise RecipeError(
            f"{family.name} keeps states, and how they would be divided among {recipe.engine.parallelism.world_size} GPUs is not "
            "known here",
            where="engine.parallelism",
            fix="use one GPU",
        )
    if recipe.engine.kv_cache is not None and family.recurrent:
        raise RecipeError(
            f"{family.name} keeps states that are not quantized", where="engine.kv_cache", fix="leave engine.kv_cache out"
        )
