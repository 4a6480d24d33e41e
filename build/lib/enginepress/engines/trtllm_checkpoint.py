"""Checks a TensorRT-LLM checkpoint before anybody spends GPU time on it. Reads config.json and headers, no tensor.

    config.json            architecture, sizes, mapping {world_size, tp_size, pp_size, cp_size}, quantization {quant_algo, …}
    rank0.safetensors …    one file for each tensor-parallel part of each pipeline stage

trtllm-build finds most of this too, but late, and some of it never: a bias that config.json does not announce is dropped
with a warning, and a missing `rotary_base` becomes 10000. For the families of `trtllm_layout` every tensor's name, type and
shape is checked; for others, what holds for all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.engines.trtllm_layout import (
    FLOATS,
    LLAMA,
    QWEN,
    Need,
    Shape,
    blocks_of,
    is_known,
    read_shape,
    tensors_of_rank,
)
from enginepress.errors import BuildError, SourceError
from enginepress.sources.safetensors_header import Tensor, read_header

# fmt: off
ALGORITHMS = frozenset({
    "W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A16_GPTQ", "W4A16_GPTQ", "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "W4A8_QSERVE_PER_GROUP",
    "W4A8_QSERVE_PER_CHANNEL", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_BLOCK_SCALES", "INT8",
    "MIXED_PRECISION", "NVFP4", "W4A8_NVFP4_FP8", "W4A8_MXFP4_FP8", "W4A8_MXFP4_MXFP8", "W4A16_MXFP4",
    "NO_QUANT",
})
# fmt: on
"""`QuantAlgo` of NVIDIA/TensorRT-LLM, tensorrt_llm/quantization/mode.py."""

KV_ALGORITHMS = frozenset({"FP8", "INT8", "NVFP4"})

_REQUIRED: Mapping[str, type] = {
    "architecture": str,
    "dtype": str,
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "hidden_act": str,
}

_OPTIONAL_SIZES = ("num_key_value_heads", "head_size", "intermediate_size", "max_position_embeddings")
_AGAIN = "convert it again; a checkpoint is never mended by hand"
_RANK_FILE = re.compile(r"rank(0|[1-9]\d*)\.safetensors")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the file, and the key or tensor in it.
        message: what is wrong, naming the value.
        fix: what to do.
    """

    where: str
    message: str
    fix: str = _AGAIN


def require_checkpoint(folder: Path) -> None:
    """
    Raises:
        BuildError: naming the first problem and how many more there are.
    """
    problems = check_checkpoint(folder)
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise BuildError(
            f"the TensorRT-LLM checkpoint is not right: {first.where}: {first.message}{more}", where=str(folder), fix=first.fix
        )


def check_checkpoint(folder: Path) -> list[Problem]:
    """Everything that is wrong with the checkpoint in this folder; empty if nothing was found."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return [Problem("config.json", "is missing or cannot be read")]
    except ValueError as error:
        return [Problem("config.json", f"is not JSON: {error}")]
    if not isinstance(config, dict):
        return [Problem("config.json", "is not a JSON object")]
    problems = list(_check_config(config))
    if problems:
        return problems  # nothing can be expected of the files then
    files, problems = _rank_files(folder, config)
    headers: dict[int, Mapping[str, Tensor]] = {}
    for rank, file in sorted(files.items()):
        try:
            headers[rank] = read_header(file).tensors
        except SourceError as error:
            problems.append(Problem(file.name, error.message))
    shape = read_shape(config)
    problems += _check_blocks(shape)
    exact = is_known(shape.architecture, shape.algorithm) and not (shape.experts and shape.algorithm)
    for rank, tensors in headers.items():
        if exact:
            problems += _check_exact(rank, tensors, tensors_of_rank(shape, rank % (shape.tp * shape.pp)))
        problems += _check_factors(rank, tensors, shape.algorithm, shape.kv_cache)
        problems += _check_companions(rank, tensors, config.get("quantization") or {})
    problems += _check_peers(headers, shape.tp)
    return problems


# ------------------------------------------------------------------------------------------------------------------
# config.json
# ------------------------------------------------------------------------------------------------------------------


def _check_config(config: Mapping[str, Any]) -> Iterator[Problem]:
    for key, kind in _REQUIRED.items():
        value = config.get(key)
        if value is None:
            yield Problem(f"config.json: {key}", "is missing")
        elif isinstance(value, bool) or not isinstance(value, kind) or value == "" or (isinstance(value, int) and value < 1):
            yield Problem(
                f"config.json: {key}", f"is {value!r}, where a {'number of at least 1' if kind is int else 'text'} is needed"
            )
    for key in _OPTIONAL_SIZES:
        value = config.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield Problem(f"config.json: {key}", f"is {value!r}, where a number of at least 1 is needed")
    if isinstance(config.get("dtype"), str) and config["dtype"] not in FLOATS:
        yield Problem("config.json: dtype", f"is {config['dtype']!r}; float16, bfloat16 and float32 are known")
    yield from _check_mapping(config)
    yield from _check_quantization(config.get("quantization"))
    architecture = config.get("architecture")
    if isinstance(architecture, str) and architecture in LLAMA | QWEN:
        base = config.get("rotary_base")
        if base is None:
            yield Problem(
                "config.json: rotary_base", "is missing: TensorRT-LLM would take 10000, whatever the model was made with"
            )
        elif isinstance(base, bool) or not isinstance(base, (int, float)) or not base > 0:
            yield Problem("config.json: rotary_base", f"is {base!r}, where a number above 0 is needed")
        if architecture in QWEN and not isinstance(config.get("qwen_type"), str):
            yield Problem("config.json: qwen_type", f"is {config.get('qwen_type')!r}, where 'qwen2' or 'qwen3' is needed")


def _check_mapping(config: Mapping[str, Any]) -> Iterator[Problem]:
    mapping = config.get("mapping")
    if mapping is None:
        return
    if not isinstance(mapping, Mapping):
        yield Problem("config.json: mapping", f"is {mapping!r}, where an object is needed")
        return
    sizes = {name: mapping.get(name, 1) for name in ("world_size", "tp_size", "pp_size", "cp_size")}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            yield Problem(f"config.json: mapping.{name}", f"is {size!r}, where a number of at least 1 is needed")
            return
    product = sizes["tp_size"] * sizes["pp_size"] * sizes["cp_size"]
    if sizes["world_size"] != product:
        parts = " x ".join(str(sizes[name]) for name in ("tp_size", "pp_size", "cp_size"))
        yield Problem("config.json: mapping.world_size", f"is {sizes['world_size']}, and tp x pp x cp is {parts} = {product}")
    moe = [mapping.get(name, -1) for name in ("moe_tp_size", "moe_ep_size")]
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in moe):
        yield Problem("config.json: mapping.moe_tp_size", f"and moe_ep_size are {moe}, where numbers are needed")
    elif min(moe) > 0 and moe[0] * moe[1] != sizes["tp_size"]:
        yield Problem(
            "config.json: mapping.moe_tp_size", f"times moe_ep_size is {moe[0]} x {moe[1]}, and tp_size is {sizes['tp_size']}"
        )
    tp, heads = sizes["tp_size"], config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    if isinstance(heads, int) and heads % tp:
        yield Problem("config.json: num_attention_heads", f"is {heads}, which cannot be split over {tp} ranks (mapping.tp_size)")
    elif isinstance(kv_heads, int) and kv_heads > 0 and kv_heads % tp and int(tp) % kv_heads:
        yield Problem(
            "config.json: num_key_value_heads", f"is {kv_heads}, which can neither be split over nor copied evenly to {tp} ranks"
        )
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers < sizes["pp_size"]:
        yield Problem("config.json: num_hidden_layers", f"is {layers}, fewer than the {sizes['pp_size']} pipeline stages")


def _check_quantization(quantization: object) -> Iterator[Problem]:
    if quantization is None:
        return
    if not isinstance(quantization, Mapping):
        yield Problem("config.json: quantization", f"is {quantization!r}, where an object is needed")
        return
    for key, known in (("quant_algo", ALGORITHMS), ("kv_cache_quant_algo", KV_ALGORITHMS)):
        value = quantization.get(key)
        if value is not None and (not isinstance(value, str) or value not in known):
            yield Problem(f"config.json: quantization.{key}", f"is {value!r}; known are " + ", ".join(sorted(known)))
    for key in ("has_zero_point", "pre_quant_scale"):
        if not isinstance(quantization.get(key, False), (bool, type(None))):
            yield Problem(f"config.json: quantization.{key}", f"is {quantization[key]!r}, where true or false is needed")
    group = quantization.get("group_size")
    if group is not None and (not isinstance(group, int) or isinstance(group, bool) or group < 1):
        yield Problem("config.json: quantization.group_size", f"is {group!r}, where a number of at least 1 is needed")
    excluded = quantization.get("exclude_modules")
    if excluded is not None and not (isinstance(excluded, list) and all(isinstance(name, str) for name in excluded)):
        yield Problem("config.json: quantization.exclude_modules", f"is {excluded!r}, where a list of names is needed")


# ------------------------------------------------------------------------------------------------------------------
# Files
# ------------------------------------------------------------------------------------------------------------------


def _rank_files(folder: Path, config: Mapping[str, Any]) -> tuple[dict[int, Path], list[Problem]]:
    """Files by rank. Context-parallel ranks share the file of their tensor-parallel part and pipeline stage."""
    mapping = config.get("mapping") or {}
    world = mapping.get("world_size", 1)
    needed = mapping.get("tp_size", 1) * mapping.get("pp_size", 1)
    found = {int(m[1]): file for file in folder.iterdir() if (m := _RANK_FILE.fullmatch(file.name))}
    problems = [
        Problem(f"rank{rank}.safetensors", f"is missing: config.json tells of {needed} ranks (mapping)")
        for rank in range(needed)
        if rank not in found
    ]
    problems += [
        Problem(
            found[rank].name, f"is of a rank that config.json does not have: mapping.world_size is {world}", "remove the file"
        )
        for rank in sorted(found)
        if rank >= max(world, needed)
    ]
    return {rank: file for rank, file in found.items() if rank < needed}, problems


_TABLES = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "long_rope_")
    for name in ("embed_positions", "rotary_inv_freq", "embed_positions_for_gpt_attention")
)
"""Positions, worked out of config.json: NVIDIA's scripts save them with the weights (`register_rope_params`, `save_checkpoint`),
and a loader works them out anew."""


def _check_exact(rank: int, tensors: Mapping[str, Tensor], needs: Mapping[str, Need]) -> Iterator[Problem]:
    for name, need in needs.items():
        tensor = tensors.get(name)
        where = f"rank{rank}.safetensors: {name}"
        if tensor is None:
            if not need.optional:
                yield Problem(where, "is missing")
        elif tensor.shape not in need.shapes:
            wanted = " or ".join(str(list(shape)) for shape in need.shapes)
            yield Problem(where, f"has the shape {list(tensor.shape)}, and config.json asks for {wanted}")
        elif tensor.dtype not in need.dtypes:
            yield Problem(where, f"is {tensor.dtype}, and config.json asks for {' or '.join(need.dtypes)}")
    for name in tensors:
        if name not in needs and name.rpartition(".")[2] not in _TABLES:
            yield Problem(f"rank{rank}.safetensors: {name}", "is not what config.json tells of, so TensorRT-LLM would drop it")


_FACTOR = re.compile(r"(weights_scaling_factor(_2)?|activation_scaling_factor|prequant_scaling_factor|per_channel_scale)$")
_SMALL = frozenset({"F8_E4M3", "I8", "U8"})


def _check_factors(rank: int, tensors: Mapping[str, Tensor], algorithm: str | None, kv_cache: str | None) -> Iterator[Problem]:
    """Scaling factors are there if, and only if, config.json says that something is quantized."""
    file = f"rank{rank}.safetensors"
    for name, tensor in tensors.items():
        if algorithm is None and _FACTOR.search(name):
            yield Problem(
                f"{file}: {name}", "is a scaling factor, and config.json says that nothing is quantized (quantization.quant_algo)"
            )
        elif algorithm is None and name.endswith(".weight") and tensor.dtype in _SMALL:
            yield Problem(
                f"{file}: {name}", f"is {tensor.dtype}, and config.json says that nothing is quantized (quantization.quant_algo)"
            )
        elif kv_cache is None and name.endswith("_cache_scaling_factor"):
            yield Problem(
                f"{file}: {name}",
                "is there, and config.json says that the KV cache is not quantized (quantization.kv_cache_quant_algo)",
            )
        elif (
            name.endswith(".weight")
            and tensor.dtype in _SMALL
            and not any(
                f"{name[:-6]}{factor}" in tensors for factor in ("weights_scaling_factor", "per_channel_scale", "s1_scales")
            )
        ):
            yield Problem(
                f"{file}: {name}", f"is {tensor.dtype}, and its scaling factors are missing ({name[:-6]}weights_scaling_factor)"
            )
    if kv_cache is None:
        return
    for name in tensors:
        if name.endswith(".attention.qkv.weight"):
            base = name.removesuffix("qkv.weight")
            if f"{base}kv_cache_scaling_factor" not in tensors and not (
                f"{base}k_cache_scaling_factor" in tensors and f"{base}v_cache_scaling_factor" in tensors
            ):
                yield Problem(
                    f"{file}: {base}kv_cache_scaling_factor",
                    f"is missing, and config.json says that the KV cache is {kv_cache} (quantization.kv_cache_quant_algo)",
                )


_BY_GROUPS = ("W4A16_AWQ", "W4A8_AWQ", "W4A16_GPTQ", "W8A16_GPTQ")


def _check_companions(rank: int, tensors: Mapping[str, Tensor], quantization: Mapping[str, Any]) -> Iterator[Problem]:
    """Zero points and scales of inputs are there if, and only if, config.json says so, for weights scaled by groups
    (tensorrt_llm/quantization/layers.py: `zero` and `pre_quant_scale` of WeightOnlyGroupwiseQuantLinear)."""
    algorithm, file = quantization.get("quant_algo"), f"rank{rank}.safetensors"
    zeros, before = bool(quantization.get("has_zero_point")), quantization.get("pre_quant_scale")
    for name in tensors:
        base, _, last = name.rpartition(".")
        if last == "zero" and algorithm in _BY_GROUPS and not zeros:
            yield Problem(f"{file}: {name}", "holds zero points, and config.json has none (quantization.has_zero_point)")
        if last == "weight" and algorithm is not None and tensors[name].dtype not in _SMALL:
            for factor in ("weights_scaling_factor", "weights_scaling_factor_2", "activation_scaling_factor"):
                if f"{base}.{factor}" in tensors:
                    yield Problem(f"{file}: {name}", f"is {tensors[name].dtype}, not quantized, and has a {factor}")
                    break
        if last != "weights_scaling_factor" or algorithm not in _BY_GROUPS:
            continue
        if zeros and f"{base}.zero" not in tensors:
            yield Problem(f"{file}: {base}.zero", "is missing, and config.json says that there are (quantization.has_zero_point)")
        if before is True and f"{base}.prequant_scaling_factor" not in tensors:
            yield Problem(
                f"{file}: {base}.prequant_scaling_factor",
                "is missing, and config.json says that inputs are scaled (quantization.pre_quant_scale)",
            )
        if before is False and f"{base}.prequant_scaling_factor" in tensors:
            yield Problem(
                f"{file}: {base}.prequant_scaling_factor",
                "is there, and config.json says that inputs are not scaled (quantization.pre_quant_scale)",
            )


def _check_blocks(shape: Shape) -> Iterator[Problem]:
    block = blocks_of(shape)
    if not block or shape.experts or not is_known(shape.architecture, None):
        return
    for name, columns in (
        ("hidden_size", shape.hidden),
        ("num_attention_heads x head_size", shape.heads // shape.tp * shape.head_size),
        ("intermediate_size", shape.intermediate // shape.tp),
    ):
        if columns % block:
            yield Problem(
                "config.json: quantization.group_size",
                f"is {block}, which does not divide {columns} ({name}" + (" of a rank)" if shape.tp > 1 else ")"),
            )
            return


def _check_peers(headers: Mapping[int, Mapping[str, Tensor]], tp: int) -> Iterator[Problem]:
    """The parts of one pipeline stage hold tensors of the same names and types."""
    for rank, tensors in headers.items():
        first = rank - rank % tp
        if rank == first or first not in headers:
            continue
        other = headers[first]
        for name in sorted(set(tensors) ^ set(other)):
            here, there = (rank, first) if name in tensors else (first, rank)
            yield Problem(f"rank{there}.safetensors: {name}", f"is missing, and rank{here}.safetensors has it")
        for name in sorted(set(tensors) & set(other)):
            if tensors[name].dtype != other[name].dtype:
                yield Problem(
                    f"rank{rank}.safetensors: {name}",
                    f"is {tensors[name].dtype}, and {other[name].dtype} in rank{first}.safetensors",
                )
