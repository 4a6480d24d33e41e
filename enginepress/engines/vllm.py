"""The `vllm` builder: no engine. The checkpoint behind Triton's vLLM backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.engines import Builder, checkpoints, versions
from enginepress.engines.quantized import quantization_of
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe

UNUSED = {
    "engine": ("options", "calibration", "converter"),
    "engine.limits": ("max_input_length", "max_beam_width"),
    "engine.parallelism": ("context", "moe_tensor", "moe_expert"),
    "serving": (
        *("bls", "multi_gpu", "parameters", "slow_path_requests", "threads"),
        *("max_concurrent_requests", "streaming", "max_tokens_default", "adapters"),
    ),
}
"""max_tokens_default: vLLM's backend has a default of its own (16), which a request changes in `sampling_parameters`."""


def builder() -> Builder:
    return VllmBuilder()


class VllmBuilder:
    """Satisfies `enginepress.engines.Builder`."""

    name = "vllm"

    def template(self, recipe: Recipe) -> str:
        return "vllm"

    def converts(self, recipe: Recipe) -> bool:
        return False

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        checkpoints.check_checkpoint(config, recipe, "vllm", unused=UNUSED)
        for number, prompt in enumerate(recipe.checks.prompts):
            if prompt.messages is not None:
                raise RecipeError(
                    "vLLM's Triton model takes no chat messages",
                    where=f"checks.prompts[{number}].messages",
                    fix="write the prompt as text, as the model's chat template would",
                )
        quantized = quantization_of(config) is not None
        if recipe.engine.precision not in checkpoints.SIXTEEN_BIT and not quantized:
            raise RecipeError(
                f"builder 'vllm' serves checkpoints as they are, and this one is not quantized: it cannot be "
                f"{recipe.engine.precision}",
                where="engine.precision",
                fix="name a checkpoint that is quantized, let builder 'llmapi' quantize this one, or set bfloat16",
            )

    def declared(self, recipe: Recipe) -> dict[str, str]:
        return {"vllm": str(versions.choose(recipe).vllm)}

    def installed(self, recipe: Recipe) -> dict[str, str]:
        """vLLM is not needed to make the release, and changes nothing in it: it is the one that will serve."""
        return self.declared(recipe)

    def record(self, recipe: Recipe) -> dict[str, Any]:
        return {"image": versions.choose(recipe).image}

    def served_by(self, recipe: Recipe) -> list[str]:
        container = versions.choose(recipe)
        where = checkpoints.on_gpus(recipe)
        return [
            f"triton in {container.image} with the vllm backend (vLLM {container.vllm}){where}",
            f"vllm serve of vLLM {container.vllm} or later, with the checkpoint folder{where}",
            "dynamo with its vllm runtime, with the checkpoint folder",
            "NIM 2.x with NIM_MODEL_PATH, with the checkpoint folder",
            "kserve's LLMInferenceService, with the checkpoint folder",
        ]

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        return []

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        raise NotImplementedError("builder 'vllm' converts nothing; `converts` says so")

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        checkpoints.link_checkpoint(source, output, allow_code=recipe.source.trust_remote_code)
