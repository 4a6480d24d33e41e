"""What trtllm-build wrote: `config.json` and `rank<n>.engine`, read back and held against what was asked.

{"version": "1.2.1", "pretrained_config": {"architecture", "mapping", "quantization", …},
 "build_config": {"max_batch_size", "max_seq_len", …, "plugin_config": {…}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import BuildError
from enginepress.recipe import Parallelism

LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width")


@dataclass(frozen=True)
class EngineConfig:
    """An engine folder's config.json.

    Attributes:
        version: of TensorRT-LLM.
        world_size: ranks, as its mapping says it.
        limits: those of `LIMITS` that it names, in requests and tokens.
    """

    version: str
    architecture: str
    world_size: int
    tensor: int
    pipeline: int
    context: int
    limits: Mapping[str, int]
    quant_algo: str | None
    kv_cache_quant_algo: str | None


def read_engine_config(folder: Path) -> EngineConfig:
    """Raises BuildError if it is missing, or not what trtllm-build writes."""
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        model, build = data["pretrained_config"], data["build_config"]
        mapping, quantization = model.get("mapping") or {}, model.get("quantization") or {}
        return EngineConfig(
            version=str(data["version"]),
            architecture=str(model["architecture"]),
            world_size=int(mapping.get("world_size", 1)),
            tensor=int(mapping.get("tp_size", 1)),
            pipeline=int(mapping.get("pp_size", 1)),
            context=int(mapping.get("cp_size", 1)),
            limits={name: int(build[name]) for name in LIMITS if build.get(name) is not None},
            quant_algo=_text(quantization.get("quant_algo")),
            kv_cache_quant_algo=_text(quantization.get("kv_cache_quant_algo")),
        )
    except FileNotFoundError:
        raise BuildError("trtllm-build left no config.json", where=str(path), fix="read the log of the build") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"is not what trtllm-build writes: {error!r}", where=str(path), fix="build it anew") from None


def ranks_in(folder: Path, suffix: str) -> set[int]:
    """Numbers of the `rank<n><suffix>` files here."""
    found = (re.fullmatch(r"rank(\d+)" + re.escape(suffix), entry.name) for entry in folder.iterdir())
    return {int(match[1]) for match in found if match}


def check_weights(folder: Path, parallelism: Parallelism) -> None:
    """Raises BuildError unless there is a weight file for each tensor-parallel part of each pipeline stage.

    Context-parallel ranks share theirs: convert_checkpoint.py loops over tp x pp ranks and quantize.py exports as many, and both
    multiply mapping.world_size by cp afterwards. One for each rank is taken too, since not every family's script was read.
    """
    parts = parallelism.tensor * parallelism.pipeline
    every = ranks_in(folder, ".safetensors") == set(range(parallelism.world_size))
    check_ranks(folder, parallelism.world_size if every else parts, ".safetensors")


def check_ranks(folder: Path, world_size: int, suffix: str) -> None:
    """Raises BuildError unless there is exactly one file for each rank."""
    found, wanted = ranks_in(folder, suffix), set(range(world_size))
    for problem, numbers in (("is missing", wanted - found), ("is not one of the ranks", found - wanted)):
        if numbers:
            names = ", ".join(f"rank{number}{suffix}" for number in sorted(numbers))
            raise BuildError(
                f"{names} {problem}: engine.parallelism asks for {world_size} {suffix} files",
                where=str(folder),
                fix="read the log; `enginepress run --force` makes it anew",
            )


def check_engine(config: EngineConfig, *, version: str, limits: Mapping[str, int], parallelism: tuple[int, int, int]) -> None:
    """Holds an engine against what was asked.

    Args:
        version: of TensorRT-LLM that was declared.
        limits: by trtllm-build's names.
        parallelism: tensor, pipeline, context.

    Raises:
        BuildError: naming what differs, with both values.
    """
    problems = []
    if config.version != version:
        problems.append(f"TensorRT-LLM {config.version} instead of {version}")
    for name, made, asked in zip(
        ("tensor", "pipeline", "context"), (config.tensor, config.pipeline, config.context), parallelism, strict=True
    ):
        if made != asked:
            problems.append(f"{name} parallelism {made} instead of {asked}")
    if config.world_size != parallelism[0] * parallelism[1] * parallelism[2]:
        problems.append(f"{config.world_size} ranks instead of {parallelism[0] * parallelism[1] * parallelism[2]}")
    # With packed inputs the tool ignores max_input_len, and some releases write their own value.
    for name in LIMITS:
        if name != "max_input_len" and name in config.limits and config.limits[name] < limits[name]:
            problems.append(f"{name} {config.limits[name]} instead of {limits[name]}")
    if problems:
        raise BuildError(
            "the engine is not what was asked for: " + "; ".join(problems),
            where="config.json of the engine",
            fix="read the log: trtllm-build says there what it changed",
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
