"""The `tensorrt_llm` builder: NVIDIA's own flow, from a Hugging Face checkpoint to TensorRT engines.

    checkpoint  ─ convert_checkpoint.py or quantize.py ─►  rank*.safetensors  ─ trtllm-build ─►  rank*.engine + config.json

Both tools come from the container in use. What they are told is a pure function of config.json, recipe and release
(`commands`), and is checked twice before a GPU works: against what is known of the release (`contracts`), and against the
tool's own `--help`. Beside the engine lies `enginepress.json`, which says where it runs (`record`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.engines import Builder, can_build
from enginepress.engines.quantized import Quantization
from enginepress.engines.rope_spelling import both_spellings
from enginepress.engines.tensorrt_llm import machine, places, release, timing_cache
from enginepress.engines.tensorrt_llm.build_command import limits_of, plan_build
from enginepress.engines.tensorrt_llm.convert_command import Conversion, plan_conversion
from enginepress.engines.tensorrt_llm.converted import check_converted
from enginepress.engines.tensorrt_llm.engine_config import check_engine, check_ranks, check_weights, read_engine_config
from enginepress.engines.tensorrt_llm.failures import tool_failure
from enginepress.engines.tensorrt_llm.options import command_line
from enginepress.engines.tensorrt_llm.record import EngineRecord, write_record
from enginepress.engines.tensorrt_llm.release import Target
from enginepress.engines.tensorrt_llm.support import (
    check_architecture,
    check_family,
    check_fields,
    check_quantized,
    check_source,
)
from enginepress.engines.tensorrt_llm.texts import write_texts
from enginepress.engines.tensorrt_llm.tools import KNOWN_EXAMPLES, QUANTIZE, Tools, check_against_help, find_tools
from enginepress.engines.tool_runs import offline_environment, read_object, tool_scratch
from enginepress.engines.trtllm_checkpoint import require_checkpoint
from enginepress.errors import BuildError, SourceError
from enginepress.process import run_logged
from enginepress.recipe import Recipe

_UNUSUAL = ("mamba", "recurrentgemma", "nemotron_nas")
"""Families whose checkpoints differ from the rest in what config.json says of heads, so that it proves nothing."""


def builder() -> Builder:
    return TensorRtLlmBuilder()


class TensorRtLlmBuilder:
    """Satisfies `enginepress.engines.Builder`."""

    name = "tensorrt_llm"

    def template(self, recipe: Recipe) -> str:
        return release.target_of(recipe).template

    def converts(self, recipe: Recipe) -> bool:
        return True

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        _planned(config, recipe)

    def declared(self, recipe: Recipe) -> dict[str, str]:
        target = release.target_of(recipe)
        return {
            "tensorrt_llm": machine.plain_version(target.tensorrt_llm),
            "tensorrt": machine.plain_version(target.tensorrt),
            "gpu": target.gpu,
            **_converter_versions(recipe),
        }

    def installed(self, recipe: Recipe) -> dict[str, str]:
        tools = find_tools(release.target_of(recipe).image)
        return {
            **machine.local_packages(tools.python),
            "gpu": release.known_gpu(machine.local_gpu().name),
            **_converter_versions(recipe),
        }

    def record(self, recipe: Recipe) -> dict[str, Any]:
        target, gpu = release.target_of(recipe), machine.local_gpu()
        return {"driver": gpu.driver, "sm": gpu.sm, "image": target.image, "image_digest": target.image_digest}

    def served_by(self, recipe: Recipe) -> list[str]:
        target = release.target_of(recipe)
        gpus = recipe.engine.parallelism.world_size
        where = f"on {gpus} x {target.gpu} (SM {target.sm})" if gpus > 1 else f"on {target.gpu} (SM {target.sm})"
        return [
            f"triton in {target.image} with the tensorrtllm backend (TensorRT-LLM {target.tensorrt_llm}) {where}",
            f"kserve with a runtime of that image, {where}",
        ]

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        """What would be run for this checkpoint: see the function of this name."""
        return commands(config, recipe)

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        config = read_object(checkpoint / "config.json")
        check_source(config, recipe, checkpoint)
        target, conversion, _ = _planned(config, recipe, _hf_quant_config(checkpoint))
        if conversion is None:
            from enginepress.engines import modelopt

            modelopt.to_tensorrt_llm(checkpoint, output, recipe, log)
        else:
            with tool_scratch(output) as scratch:
                _show_checkpoint(checkpoint.resolve(), config, scratch / places.CHECKPOINT)
                (scratch / places.CONVERTED).symlink_to(output.resolve())
                if conversion.calibrates:
                    assert recipe.engine.calibration is not None, "plan_conversion refuses that"
                    write_texts(recipe.engine.calibration, scratch / places.CALIBRATION)
                tools = find_tools(target.image)
                _check_version(machine.local_packages(tools.python), target)
                self._run(tools, conversion.tool, conversion.command, target, recipe, log=log, scratch=scratch)
        check_weights(output, recipe.engine.parallelism)
        if not (output / "config.json").is_file():
            raise BuildError("the conversion left no config.json", where=str(output), fix="read the log of the conversion")
        check_converted(config, read_object(output / "config.json"), where=output)
        if conversion is not None and conversion.family.name not in _UNUSUAL:
            require_checkpoint(output)
        shutil.copyfile(checkpoint / "config.json", output / places.SOURCE_CONFIG)

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        config = _source_config(source)
        target = release.target_of(recipe)
        tools = find_tools(target.image)
        gpu = machine.local_gpu()
        packages = machine.local_packages(tools.python)
        _check_version(packages, target)
        check_weights(source, recipe.engine.parallelism)
        arguments = plan_build(config, recipe, version=target.tensorrt_llm, sm=target.sm)
        kept = timing_cache.timing_cache(output, gpu=target.gpu, sm=gpu.sm, tensorrt=packages["tensorrt"])
        with tool_scratch(output) as scratch:
            (scratch / places.CONVERTED).symlink_to(source.resolve())
            (scratch / places.ENGINE).symlink_to(output.resolve())
            timing_cache.fetch(kept, scratch / places.TIMINGS_READ)
            self._run(tools, "trtllm-build", command_line(arguments), target, recipe, log=log, scratch=scratch)
            timing_cache.keep(scratch / places.TIMINGS_WRITTEN, kept)
        engine = read_engine_config(output)
        parallelism = recipe.engine.parallelism
        limits = {name: int(arguments[f"--{name}"] or 0) for name in limits_of(config, recipe)}
        check_engine(
            engine,
            version=packages["tensorrt_llm"],
            limits=limits,
            parallelism=(parallelism.tensor, parallelism.pipeline, parallelism.context),
        )
        check_ranks(output, engine.world_size, ".engine")
        write_record(
            output,
            EngineRecord(
                tensorrt_llm=engine.version,
                tensorrt=packages["tensorrt"],
                gpu=release.known_gpu(gpu.name),
                sm=gpu.sm,
                driver=gpu.driver,
                image=target.image,
                image_digest=target.image_digest,
                world_size=engine.world_size,
                limits={**limits, **engine.limits},
            ),
        )

    def _run(
        self, tools: Tools, tool: str, arguments: list[str], target: Target, recipe: Recipe, *, log: Path, scratch: Path
    ) -> None:
        """Runs one of NVIDIA's tools in scratch, after it has said that it takes these arguments."""
        command = tools.command(tool)
        env = offline_environment(os.environ, scratch, recipe)
        check_against_help(command, arguments, tool=tool, version=target.tensorrt_llm, env=env, cwd=scratch)
        status = run_logged([*command, *arguments], log=log, env=env, cwd=scratch)
        if status != 0:
            raise tool_failure(tool, status, log)


def commands(config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
    """What would be run for this checkpoint, in order, with the tools where NVIDIA's image has them.

    Raises:
        EnginepressError: as `TensorRtLlmBuilder.check`.
    """
    target, conversion, build = _planned(config, recipe)
    lines = []
    if conversion is not None:
        place = f"{conversion.family.usual_place(target.tensorrt_llm)}/convert_checkpoint.py"
        script = QUANTIZE if conversion.tool == "quantize" else place
        lines.append(["python3", f"{KNOWN_EXAMPLES[0]}/{script}", *conversion.command])
    return [*lines, ["trtllm-build", *build]]


def _planned(
    config: Mapping[str, Any], recipe: Recipe, hf_quant_config: Mapping[str, Any] | None = None
) -> tuple[Target, Conversion | None, list[str]]:
    """Everything that can be decided, and so refused, without a weight. The conversion is None where ModelOpt makes it."""
    check_fields(recipe)
    check_source(config, recipe)
    target = release.target_of(recipe)
    others = can_build(config, recipe, but="tensorrt_llm") if _unknown(config, target) else []
    family = check_architecture(config, target, others=others)
    quantization: Quantization | None = check_quantized(config, recipe, family, hf_quant_config)
    check_family(recipe, family, target)
    if not family.recurrent:  # of which nothing is divided: `check_family`
        release.check_parallelism(config, recipe)
    conversion = None
    if recipe.engine.converter == "modelopt":
        from enginepress.engines import modelopt

        modelopt.check_tensorrt_llm(config, recipe)
    else:
        conversion = plan_conversion(config, recipe, version=target.tensorrt_llm, quantization=quantization)
    build = plan_build(config, recipe, version=target.tensorrt_llm, sm=target.sm)
    return target, conversion, command_line(build)


def _unknown(config: Mapping[str, Any], target: Target) -> bool:
    """Other builders are asked only where ours says no."""
    try:
        check_architecture(config, target, others=[])
    except SourceError:
        return True
    return False


def _show_checkpoint(checkpoint: Path, config: Mapping[str, Any], folder: Path) -> None:
    """The checkpoint under a name that misleads no tool, with a config.json that the transformers of any container reads rightly:
    NVIDIA's images have version 4 or 5, and version 4 takes base 10000 for what only version 5 spells."""
    spelt = both_spellings(config)
    if spelt == config:
        folder.symlink_to(checkpoint)
        return
    folder.mkdir()
    for entry in checkpoint.iterdir():
        if entry.name != "config.json":
            (folder / entry.name).symlink_to(entry)
    (folder / "config.json").write_text(json.dumps(spelt, indent=2) + "\n", encoding="utf-8")


def _check_version(packages: Mapping[str, str], target: Target) -> None:
    """A checkpoint or an engine of another version than planned would fail at the very end, when it is loaded."""
    if packages["tensorrt_llm"] != machine.plain_version(target.tensorrt_llm):
        raise BuildError(
            f"TensorRT-LLM here is {packages['tensorrt_llm']}, and Triton {target.tag} has {target.tensorrt_llm}",
            where="engine.container",
            fix=f"run this step in {target.image}, or name the release of this container in engine.container",
        )


def _converter_versions(recipe: Recipe) -> dict[str, str]:
    if recipe.engine.converter != "modelopt":
        return {}
    from enginepress.engines import modelopt

    return modelopt.versions()


def _source_config(converted: Path) -> dict[str, Any]:
    """config.json of the checkpoint that was converted; of a TensorRT-LLM checkpoint from elsewhere, its own."""
    own: dict[str, Any] = read_object(converted / "config.json")
    if not (converted / places.SOURCE_CONFIG).is_file():
        return {**own, "architectures": [own.get("architecture")]}
    source: dict[str, Any] = read_object(converted / places.SOURCE_CONFIG)
    return source


def _hf_quant_config(checkpoint: Path) -> Mapping[str, Any] | None:
    path = checkpoint / "hf_quant_config.json"
    if not path.is_file():
        return None
    value: Mapping[str, Any] = read_object(path)
    return value
