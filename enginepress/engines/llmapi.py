"""The `llmapi` builder: no engine. The checkpoint, maybe quantized by ModelOpt, behind TensorRT-LLM's LLM API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.calibration import refuse_unused
from enginepress.engines import Builder, checkpoints, versions
from enginepress.engines.checkpoints import SIXTEEN_BIT
from enginepress.engines.quantized import quantization_of
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe

UNUSED = {
    "engine": ("options",),
    "serving": ("bls", "multi_gpu", "parameters", "slow_path_requests", "threads"),
}


def builder() -> Builder:
    return LlmApiBuilder()


class LlmApiBuilder:
    """Satisfies `enginepress.engines.Builder`."""

    name = "llmapi"

    def template(self, recipe: Recipe) -> str:
        return "llmapi"

    def converts(self, recipe: Recipe) -> bool:
        """A quantized precision or KV cache is made by ModelOpt, unless the checkpoint comes with it."""
        return recipe.engine.precision not in SIXTEEN_BIT or recipe.engine.kv_cache is not None

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        checkpoints.check_checkpoint(config, recipe, "llmapi", unused=UNUSED)
        quantized = quantization_of(config) is not None
        if self.converts(recipe) and not quantized:
            from enginepress.engines import modelopt

            modelopt.check_hugging_face(config, recipe)
        else:
            why = "the checkpoint is quantized already" if quantized else f"{recipe.engine.precision} needs none"
            refuse_unused(recipe.engine.calibration, why)
            if recipe.engine.converter == "modelopt":
                raise RecipeError(
                    f"ModelOpt has nothing to convert: {why}", where="engine.converter", fix="leave engine.converter out"
                )

    def declared(self, recipe: Recipe) -> dict[str, str]:
        container = versions.choose(recipe)
        found = {"tensorrt_llm": str(container.tensorrt_llm)}
        if self.converts(recipe):
            from enginepress.engines import modelopt

            found |= modelopt.versions()
        return found

    def installed(self, recipe: Recipe) -> dict[str, str]:
        """TensorRT-LLM is not needed to make the release, and changes nothing in it: it is the one that will serve."""
        return self.declared(recipe)

    def record(self, recipe: Recipe) -> dict[str, Any]:
        return {"image": versions.choose(recipe).image}

    def served_by(self, recipe: Recipe) -> list[str]:
        container = versions.choose(recipe)
        where = checkpoints.on_gpus(recipe)
        return [
            f"triton in {container.image} with its llmapi model (TensorRT-LLM {container.tensorrt_llm}){where}",
            f"trtllm-serve of TensorRT-LLM {container.tensorrt_llm} or later, with the checkpoint folder{where}",
            "dynamo with its trtllm or vllm runtime, with the checkpoint folder",
            "NIM 2.x with NIM_MODEL_PATH, with the checkpoint folder",
            "kserve's LLMInferenceService, with the checkpoint folder",
        ]

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        return []

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        if checkpoints.quantization_in(checkpoint) is not None:
            # `check` has seen that it is what the recipe asks for.
            checkpoints.link_checkpoint(checkpoint, output, allow_code=recipe.source.trust_remote_code)
            return
        from enginepress.engines import modelopt

        modelopt.to_hugging_face(checkpoint, output, recipe, log)

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        checkpoints.link_checkpoint(source, output, allow_code=recipe.source.trust_remote_code)
