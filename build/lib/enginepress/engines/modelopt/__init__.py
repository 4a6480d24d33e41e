"""NVIDIA ModelOpt: from a checkpoint to a TensorRT-LLM checkpoint or to a quantized Hugging Face checkpoint, on any machine.

It runs as a process of its own (`driver`), without network and without our secrets. What it cannot do, or does wrongly, is
refused before from config.json (`support`, `fields`); what it leaves out of config.json is put in
(`tensorrt_llm_config`); and what it wrote is compared with the checkpoint tensor by tensor (`verify`), so that a wrong model ends
as an error, never as a file.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.calibration import read_texts
from enginepress.engines.modelopt.failures import conversion_failure
from enginepress.engines.modelopt.fields import FAMILIES, model_fields, shape_fields
from enginepress.engines.modelopt.hugging_face import copy_tokenizer
from enginepress.engines.modelopt.support import FORMATS, KV_CACHES, Form, check, data_type, needs_calibration
from enginepress.engines.tool_runs import offline_environment, read_object, tool_scratch
from enginepress.engines.trtllm_checkpoint import require_checkpoint
from enginepress.errors import BuildError, SourceError
from enginepress.process import run_logged
from enginepress.recipe import Recipe

PACKAGES = ("nvidia-modelopt", "torch", "transformers")
"""What can change a converted checkpoint's bytes."""

INSTALL = "pip install 'enginepress[modelopt]' (Python 3.11 or 3.12)"


def to_tensorrt_llm(checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
    """Makes a TensorRT-LLM checkpoint in the empty folder `output`; ModelOpt's output is kept in `log`.

    Raises:
        UnsupportedModelError, RecipeError, SourceError: before anything is loaded, for what cannot be converted rightly.
        BuildError: if ModelOpt is not here or failed, or if what it wrote is not the checkpoint; with the last lines of the log.
    """
    _convert("tensorrt_llm", checkpoint, output, recipe, log)
    require_checkpoint(output)


def to_hugging_face(checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
    """Makes a quantized Hugging Face checkpoint in the empty folder `output`, with its tokenizer.

    Raises:
        As `to_tensorrt_llm`.
    """
    _convert("hugging_face", checkpoint, output, recipe, log)
    copy_tokenizer(checkpoint, output)


def check_tensorrt_llm(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuses what `to_tensorrt_llm` would refuse, from config.json alone."""
    check(config, recipe, "tensorrt_llm")


def check_hugging_face(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuses what `to_hugging_face` would refuse, from config.json alone."""
    check(config, recipe, "hugging_face")


def versions() -> dict[str, str]:
    """Names and versions of the packages that a conversion depends on.

    Raises:
        BuildError: if they are not installed, with what to do.
    """
    found, missing = {}, []
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise BuildError(f"ModelOpt is not installed here: no {', no '.join(missing)}", where="engine.converter", fix=INSTALL)
    return found


# ------------------------------------------------------------------------------------------------------------------
# A conversion
# ------------------------------------------------------------------------------------------------------------------


def _convert(form: Form, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
    config = read_object(checkpoint / "config.json")
    quantized = checkpoint / "hf_quant_config.json"
    check(config, recipe, form, hf_quant_config=read_object(quantized) if quantized.is_file() else None)
    if not any(checkpoint.glob("*.safetensors")):
        raise SourceError("has no safetensors files, and ModelOpt is given no pickle files", where=str(checkpoint))
    versions()
    job = _job(form, checkpoint, output, config, recipe)
    # Scratch lies in the output, so that whoever sweeps up a killed conversion sweeps it up as well.
    with tool_scratch(output) as scratch:
        order = scratch / "job.json"
        order.write_text(json.dumps(job), encoding="utf-8")
        status = run_logged(
            [sys.executable, "-m", "enginepress.engines.modelopt.driver", str(order)],
            log=log,
            env=offline_environment(os.environ, scratch, recipe),
            cwd=scratch,
        )
        if status != 0:
            raise conversion_failure(status, log, memory_gib=_memory_gib(checkpoint))


def _job(form: Form, checkpoint: Path, output: Path, config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What the driver is told. Nothing else reaches it."""
    engine = recipe.engine
    how = FORMATS[engine.precision]
    family = FAMILIES[config["architectures"][0]]
    calibration = engine.calibration if needs_calibration(recipe) else None
    return {
        "form": form,
        "checkpoint": str(checkpoint.resolve()),
        "output": str(output.resolve()),
        "fields": model_fields(config) if form == "tensorrt_llm" else shape_fields(config),
        "decoder": family.decoder,
        "dtype": data_type(config, recipe),
        "quantization": how.config,
        "algorithm": how.algorithm,
        "kv_cache": engine.kv_cache,
        "kv_cache_algorithm": KV_CACHES[form][engine.kv_cache] if engine.kv_cache else None,
        "tensor": engine.parallelism.tensor,
        "pipeline": engine.parallelism.pipeline,
        "texts": read_texts(calibration) if calibration else [],
        "max_length": calibration.max_length if calibration else 0,
        "batch_size": calibration.batch_size if calibration else 1,
    }


def _memory_gib(checkpoint: Path) -> float:
    """Roughly what a conversion takes (docs/modelopt.md): the imports, and 2.2 times the checkpoint."""
    return 1.0 + 2.2 * sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) / 2**30
