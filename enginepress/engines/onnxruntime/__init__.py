"""The `onnxruntime` builder: ONNX Runtime GenAI's model builder makes an ONNX engine for a CPU, in float32, int8 or int4.

The tool runs as a process of its own, on a view of the checkpoint (`onnxruntime_files`), without network. What it cannot
do, or does wrongly, is refused by `check` from config.json alone (`onnxruntime_support`). The same checkpoint gives the same
bytes, wherever it lies and however many threads work.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.engines import Builder, can_build
from enginepress.engines.onnxruntime.failures import build_failure, unfound_weights
from enginepress.engines.onnxruntime.files import finish_engine, shares_embeddings, view_checkpoint
from enginepress.engines.onnxruntime.model import WHERE, ModelConfig, architecture_of, read_model_config
from enginepress.engines.onnxruntime.support import FAMILIES, PRECISIONS, REFUSED, refusal
from enginepress.engines.tool_runs import offline_environment, read_object, tool_scratch
from enginepress.errors import BuildError, RecipeError, SourceError, UnsupportedModelError
from enginepress.process import run_logged
from enginepress.recipe import Recipe

PACKAGES = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
"""What can change the engine's bytes."""

GPU_ONLY = {
    "engine": ("kv_cache", "container", "image", "converter", "calibration", "options"),
    "engine.limits": ("max_input_length", "max_num_tokens", "max_beam_width"),
    "serving": ("streaming", "bls", "multi_gpu", "parameters", "engine_args", "adapters"),
}
"""Fields that are refused, so that none is silently ignored."""

_INSTALL = "pip install 'enginepress[onnxruntime]' (Python 3.11 or 3.12)"


def builder() -> Builder:
    return OnnxRuntimeBuilder()


class OnnxRuntimeBuilder:
    """Satisfies `enginepress.engines.Builder`."""

    name = "onnxruntime"

    def template(self, recipe: Recipe) -> str:
        return "onnxruntime"

    def converts(self, recipe: Recipe) -> bool:
        return False

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        _check_recipe(recipe)
        architecture = architecture_of(config)
        if architecture not in FAMILIES:
            raise self._unsupported(config, recipe, REFUSED.get(architecture, "the model builder does not know it"))
        if config.get("quantization_config") is not None:
            raise self._unsupported(
                config,
                recipe,
                f"it is quantized already ({_quantization(config)})",
                fix="name the unquantized checkpoint that it was made from, and the precision in engine.precision",
            )
        if config.get("auto_map") is not None and not recipe.source.trust_remote_code:
            raise SourceError(
                "'auto_map' names Python code of the checkpoint's own, which is not run",
                where=WHERE,
                fix="if you trust it, set source.trust_remote_code in the recipe",
            )
        family = FAMILIES[architecture]
        if recipe.engine.precision not in family.precisions:
            raise RecipeError(
                f"builder 'onnxruntime' makes {architecture} in {', '.join(sorted(family.precisions))} only, "
                f"not in {recipe.engine.precision}",
                where="engine.precision",
            )
        model = read_model_config(config)
        length = recipe.engine.limits.max_sequence_length
        if length is not None and length > model.context:
            raise RecipeError(
                f"{length} is more than the {model.context} tokens that the model was made for ('max_position_embeddings')",
                where="engine.limits.max_sequence_length",
                fix=f"set it to {model.context} or less, or leave it out",
            )
        if reason := refusal(model, length):
            raise self._unsupported(config, recipe, reason)

    def declared(self, recipe: Recipe) -> dict[str, str]:
        versions, missing = {}, []
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                missing.append(package)
        if missing:
            raise RecipeError(
                f"builder 'onnxruntime' is not installed here: no {', no '.join(missing)}", where="engine.builder", fix=_INSTALL
            )
        return versions

    def installed(self, recipe: Recipe) -> dict[str, str]:
        return self.declared(recipe)

    def record(self, recipe: Recipe) -> dict[str, Any]:
        return {}

    def served_by(self, recipe: Recipe) -> list[str]:
        return ["triton with the python backend and the packages in made_with, on x86-64"]

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        return []

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        raise NotImplementedError("builder 'onnxruntime' converts nothing; `converts` says so")

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        config = read_object(source / "config.json")
        self.check(config, recipe)
        self.installed(recipe)
        model = read_model_config(config)
        with tool_scratch(output) as scratch:
            view_checkpoint(source, scratch / "checkpoint", model)
            options = {
                "hf_token": "false",
                "hf_remote": str(recipe.source.trust_remote_code).lower(),
                # Engines that compute requests together answer wrongly with the tool's windowed caches.
                "windowed_kv_cache": "false",
            }
            shared = shares_embeddings(source, model)
            if shared is not None:
                options["shared_embeddings"] = str(shared).lower()
            status = self.run_tool(
                _command(scratch, output, PRECISIONS[recipe.engine.precision], options),
                log=log,
                # The tool writes the commit of the repository around it, if there is one, into the engine.
                env={**offline_environment(os.environ, scratch, recipe), "GIT_DIR": str(scratch / "no-repository")},
                cwd=scratch,
            )
            if unfound := unfound_weights(log):
                raise BuildError(
                    "the checkpoint lacks weights that config.json asks for, or has them in another shape: "
                    + ", ".join(unfound[:5])
                    + (f" and {len(unfound) - 5} more" if len(unfound) > 5 else ""),
                    where=str(source),
                    fix="check that all its files were published, and that config.json belongs to them",
                )
            if status != 0:
                raise build_failure(status, log, memory_gib=_memory_gib(source, model, recipe.engine.precision))
        finish_engine(output, recipe.engine.limits)

    def run_tool(self, argv: list[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> int:
        """Runs the model builder to its end; its exit status."""
        return run_logged(argv, log=log, env=env, cwd=cwd)

    def _unsupported(
        self, config: Mapping[str, Any], recipe: Recipe, reason: str, *, fix: str | None = None
    ) -> UnsupportedModelError:
        others = can_build(config, recipe, but=self.name)
        if others:
            fix = "builders that can: " + ", ".join(others) + " (engine.builder in the recipe)"
        elif fix is None:
            fix = "no other builder of this version can; 'onnxruntime' builds " + ", ".join(sorted(FAMILIES))
        return UnsupportedModelError(
            f"builder 'onnxruntime' cannot build this {architecture_of(config)}: {reason}", where=WHERE, fix=fix
        )


def _check_recipe(recipe: Recipe) -> None:
    engine = recipe.engine
    if engine.precision not in PRECISIONS:
        raise RecipeError(
            f"builder 'onnxruntime' does not make {engine.precision}",
            where="engine.precision",
            fix="use " + ", ".join(PRECISIONS) + "; no other builder of this version makes it on a CPU",
        )
    length, checks = engine.limits.max_sequence_length, recipe.checks
    asked = {f"checks.prompts[{i}].max_tokens": p.max_tokens for i, p in enumerate(checks.prompts)}
    if checks.load is not None:
        asked["checks.load.max_tokens"] = checks.load.max_tokens
    for field, tokens in asked.items():
        if checks.served and length is not None and tokens >= length:
            raise RecipeError(
                f"the gate would ask for {tokens} tokens, and prompt and answer together have {length} at most "
                "(engine.limits.max_sequence_length), so no server would answer",
                where=field,
                fix=f"set it to less than {length}, or allow longer sequences",
            )
    for name, size in engine.parallelism.model_dump().items():
        if (size or 1) > 1:
            raise RecipeError(
                f"builder 'onnxruntime' runs a model on one CPU and cannot spread it over {size}",
                where=f"engine.parallelism.{name}",
                fix="leave engine.parallelism out",
            )
    for section, fields in GPU_ONLY.items():
        values = recipe.serving if section == "serving" else engine.limits if section == "engine.limits" else engine
        for field in fields:
            if getattr(values, field) != type(values).model_fields[field].get_default(call_default_factory=True):
                raise RecipeError(
                    f"builder 'onnxruntime' has no use for '{field}', which is for engines on GPUs",
                    where=f"{section}.{field}",
                    fix=f"leave {section}.{field} out",
                )
    if engine.gpu is not None:
        raise RecipeError(
            f"builder 'onnxruntime' builds for CPUs, not for {engine.gpu.name}", where="engine.gpu", fix="leave engine.gpu out"
        )


def _quantization(config: Mapping[str, Any]) -> str:
    value = config["quantization_config"]
    return str(value.get("quant_method", "quantization_config")) if isinstance(value, Mapping) else "quantization_config"


def _command(scratch: Path, output: Path, precision: str, options: Mapping[str, str]) -> list[str]:
    return [
        sys.executable,
        *("-m", "onnxruntime_genai.models.builder"),
        *("--input", str(scratch / "checkpoint")),
        *("--output", str(output.resolve())),
        *("--precision", precision),
        *("--execution_provider", "cpu"),
        *("--cache_dir", str(scratch / "cache")),
        *("--extra_options", *(f"{key}={value}" for key, value in options.items())),
    ]


def _memory_gib(source: Path, model: ModelConfig, precision: str) -> float:
    """Roughly what a build takes, as measured with 0.25 billion parameters: most of it for rounding the weights in float32."""
    weights = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 2**30
    in_float32 = weights if (model.raw.get("dtype") or model.raw.get("torch_dtype")) == "float32" else 2 * weights
    return (1.2 if precision == "float32" else 2.5) * in_float32 + 0.6
