"""What the builders share that make no engine: the checkpoint itself is served (`llmapi`, `vllm`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from enginepress.engines import arguments, can_build, gpus, versions
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit.parallelism import check_parallelism
from enginepress.engines.quantized import Quantization, quantization_of, refused_by
from enginepress.engines.rope_spelling import both_spellings
from enginepress.engines.tables import load_table
from enginepress.engines.tool_runs import read_object
from enginepress.engines.versions import Container
from enginepress.errors import BuildError, RecipeError, SourceError, UnsupportedModelError
from enginepress.files import check_relative, explain_os_error, walk_files
from enginepress.recipe import Recipe
from enginepress.repository.plans.adapters import check_adapters
from enginepress.repository.plans.engine_args import check_engine_args, draft_model

SIXTEEN_BIT = ("float16", "bfloat16", "float32")
"""Precisions that ask for no quantization."""

Name = Literal["llmapi", "vllm"]


def check_checkpoint(config: Mapping[str, Any], recipe: Recipe, name: Name, *, unused: Mapping[str, Iterable[str]]) -> Container:
    """What is refused for both builders, from config.json alone.

    Args:
        unused: section of the recipe -> fields that this builder has no use for.

    Raises:
        RecipeError, SourceError, UnsupportedModelError: naming the field, the value and the remedy.
    """
    refuse_unused(recipe, name, unused)
    check_engine_args(recipe.serving.engine_args, name)
    if name == "llmapi":
        check_adapters(recipe.serving.adapters, recipe.serving.engine_args)
    if config.get("auto_map") is not None and not recipe.source.trust_remote_code:
        raise SourceError(
            "'auto_map' names Python code of the checkpoint's own, which is not run",
            where="config.json",
            fix="if you trust it, set source.trust_remote_code in the recipe",
        )
    container = versions.choose(recipe)
    _check_architecture(config, recipe, name, container)
    quantization = quantization_of(config)
    if quantization is not None:
        _check_quantized(quantization, config, recipe, name)
    arguments.check(config, recipe, name, quantization, container)
    check_parallelism(read_shape(config), recipe)
    return container


def _check_architecture(config: Mapping[str, Any], recipe: Recipe, name: Name, container: Container) -> None:
    """Whether the server knows the model's class (served.yaml). vLLM can also run transformers' own, if it is told to."""
    if name == "vllm" and recipe.serving.engine_args.get("model_impl") == "transformers":
        return
    table = load_table("served")[name]
    names = config.get("architectures")
    said = [text for text in names if isinstance(text, str)] if isinstance(names, list) else []
    here = container.vllm if name == "vllm" else container.tensorrt_llm
    for text in said:
        last = table["removed"].get(text)
        if last is None and text in table["served"]:
            return
        if last is not None and here is not None and versions.version_key(here) <= versions.version_key(last):
            return
    if not said:
        raise SourceError(
            f"'architectures' names no class: {names!r}",
            where="config.json",
            fix="take a checkpoint in Hugging Face's format, whose config.json names one",
        )
    last = next((str(table["removed"][text]) for text in said if text in table["removed"]), None)
    served = "vLLM" if name == "vllm" else "TensorRT-LLM's PyTorch backend"
    why = f"has it up to {last} only, and Triton {container.tag} has {here}" if last is not None else "is not known to have it"
    fix = f"name an older engine.container, with {served} {last}" if last is not None else "take a model that it serves"
    if name == "vllm" and last is None:
        fix += ", or set serving.engine_args.model_impl: transformers if transformers has this one"
    if others := can_build(config, recipe, but=name):
        fix += "; builders that can: " + ", ".join(others)
    raise UnsupportedModelError(
        f"builder '{name}' cannot serve the architecture {', '.join(said)}: {served} {why}", where="config.json", fix=fix
    )


def refuse_unused(recipe: Recipe, name: str, unused: Mapping[str, Iterable[str]]) -> None:
    """Refuses fields that would be ignored."""
    sections: dict[str, Any] = {
        "engine": recipe.engine,
        "engine.limits": recipe.engine.limits,
        "engine.parallelism": recipe.engine.parallelism,
        "serving": recipe.serving,
    }
    for section, fields in unused.items():
        values = sections[section]
        for field in fields:
            if getattr(values, field) != type(values).model_fields[field].get_default(call_default_factory=True):
                raise RecipeError(
                    f"builder '{name}' has no use for '{field}'", where=f"{section}.{field}", fix=f"leave {section}.{field} out"
                )


def _check_quantized(quantization: Quantization, config: Mapping[str, Any], recipe: Recipe, name: Name) -> None:
    refusal = refused_by(quantization, name, precision=recipe.engine.precision)
    if refusal is None and quantization.blocks and name == "llmapi":
        refusal = _refuse_blocks(recipe)
    if refusal is not None:
        reason, fix = refusal
        others = can_build(config, recipe, but=name)
        if others:
            fix += "; builders that take it: " + ", ".join(others)
        raise UnsupportedModelError(f"builder '{name}' cannot serve this checkpoint: {reason}", where="config.json", fix=fix)


BLOCK_SMS = ("90", "100", "103")
"""Compute capabilities on which TensorRT-LLM computes FP8 by blocks: NVIDIA/TensorRT-LLM docs/source/features/quantization.md
@09d4c79ba941a5c2c62c878c3572c0dcc8b85efa, hardware support matrix, FP8(block scaling). FP8 per tensor runs on more."""


def _refuse_blocks(recipe: Recipe) -> tuple[str, str] | None:
    """Why and what to do, for FP8 by blocks on the recipe's GPU."""
    if recipe.engine.gpu is None:
        return None
    gpu = gpus.find(recipe.engine.gpu.name)
    if gpu.sm in BLOCK_SMS:
        return None
    return (
        f"it is FP8 by blocks, which TensorRT-LLM computes on Hopper, B200 and B300 only, not on {gpu.name} (SM {gpu.sm})",
        "use one of those GPUs, name an FP8 checkpoint with one scaling factor a tensor (precision fp8), or use builder 'vllm'",
    )


def quantization_in(folder: Path) -> Quantization | None:
    """How the checkpoint in this folder is quantized; ModelOpt's own file counts more than config.json."""
    return quantization_of(
        read_object(folder / "config.json"),
        read_object(folder / "hf_quant_config.json") if (folder / "hf_quant_config.json").is_file() else None,
    )


def link_checkpoint(source: Path, output: Path, *, allow_code: bool) -> None:
    """Puts the checkpoint into the empty folder `output`: linked, so that weights exist once on disk. config.json says the
    rotary embedding in both spellings there, whichever transformers the container has.

    Raises:
        SourceError: for Python files without leave, or a checkpoint without safetensors or tokenizer.json.
    """
    # Here: the repository imports builders.
    from enginepress.repository.links import link_file

    names = [name for name in walk_files(source) if not any(part.startswith(".") for part in name.split("/"))]
    code = [name for name in names if name.endswith(".py")]
    if code and not allow_code:
        raise SourceError(
            f"holds Python code of its own ({', '.join(code[:3])}), which is not served",
            where=str(source),
            fix="if you trust it, set source.trust_remote_code in the recipe",
        )
    if not any(name.endswith(".safetensors") for name in names):
        raise SourceError("has no safetensors file", where=str(source), fix="take a checkpoint in safetensors")
    if "tokenizer.json" not in names:
        raise SourceError("has no tokenizer.json", where=str(source), fix="take a checkpoint that comes with a fast tokenizer")
    config = read_object(source / "config.json")
    spelt = both_spellings(config)
    try:
        for name in names:
            if name == "config.json" and spelt != config:
                (output / name).write_text(json.dumps(spelt, indent=2) + "\n", encoding="utf-8")
            else:
                link_file(source / check_relative(name), output / name)
    except OSError as error:
        raise explain_os_error(error, "linking the checkpoint", BuildError) from None


def on_gpus(recipe: Recipe) -> str:
    """Where it runs, in words, and what must lie there beside the release: ` on 2 x H100-SXM5-80GB, with the draft model in
    /models/draft`; empty if the recipe names nothing of that."""
    world, gpu = recipe.engine.parallelism.world_size, recipe.engine.gpu
    where = f" on {f'{world} x ' if world > 1 else ''}{gpu.name}" if gpu is not None else ""
    draft = draft_model(recipe.serving.engine_args)
    beside = [f"the draft model in {draft[1]}"] if draft is not None else []
    beside += [f"the adapter {name} in {folder}" for name, folder in sorted(recipe.serving.adapters.items())]
    return where + (f", with {' and '.join(beside)}" if beside else "")
