"""Whether a Hugging Face checkpoint is quantized already, and how: read from config.json and hf_quant_config.json.

    config.json              quantization_config: {"quant_method": "gptq", "bits": 4, "desc_act": true, …}
    hf_quant_config.json     {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", …}}   (ModelOpt)

Nobody quantizes twice, and not every builder reads every kind, so builders ask here before weights are downloaded.
What TensorRT-LLM takes: NVIDIA/TensorRT-LLM, examples/models/core/llama/convert_checkpoint.py (fbgemm_fp8, awq, gptq without
desc_act) and tensorrt_llm/llmapi/llm_utils.py, `_update_from_hf_quant_config` (hf_quant_config.json, fp8 by blocks, mxfp4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.errors import SourceError

WHERE = "config.json: quantization_config"

_NAMES = {
    "modelopt": "ModelOpt",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fbgemm_fp8": "FBGEMM FP8",
    "fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
    "mxfp4": "MXFP4",
}

_GROUPS = (128, 64)

_ALGORITHMS = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "int4_awq", "W4A8_AWQ": "w4a8_awq", "W8A8_SQ_PER_CHANNEL": "int8_sq"}
"""ModelOpt's `quant_algo`, and the recipe's precision."""


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint is quantized.

    Attributes:
        method: "modelopt", "gptq", "awq", "fbgemm_fp8", "fp8" (DeepSeek's, by blocks, and others), "compressed-tensors",
            "bitsandbytes", "mxfp4", or whatever config.json calls it.
        algorithm: in the method's own words, e.g. "FP8", "nvfp4-pack-quantized", or None.
        bits: of a weight, or None if it does not say.
        group_size: weights that share a scaling factor, or None.
        desc_act: GPTQ only: columns are in another order (act-order).
        symmetric: GPTQ only: one zero point for all weights; None if it does not say.
        blocks: FP8 with a scaling factor for each block of the weight (`weight_block_size`).
        kv_cache: precision of the KV cache that comes with it ("fp8", …), or None.
        precision: the recipe's precision that asks for the same, or None if there is none.
    """

    method: str
    algorithm: str | None = None
    bits: int | None = None
    group_size: int | None = None
    desc_act: bool = False
    symmetric: bool | None = None
    blocks: bool = False
    kv_cache: str | None = None
    precision: str | None = None

    def describe(self) -> str:
        """In a few words, for messages."""
        words = [_NAMES.get(self.method, f"'{self.method}'")]
        if self.algorithm is not None and self.algorithm.lower() != self.method:
            words.append(self.algorithm)
        if self.bits is not None and self.method in ("gptq", "awq", "bitsandbytes", "compressed-tensors"):
            words.append(f"{self.bits} bits")
        if self.desc_act:
            words.append("with desc_act")
        if self.blocks:
            words.append("by blocks")
        return " ".join(words)


def quantization_of(config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None = None) -> Quantization | None:
    """How the checkpoint is quantized, or None if it is not.

    Args:
        config: config.json.
        hf_quant_config: hf_quant_config.json, if there is one.

    Raises:
        SourceError: if it says that it is quantized, but not in a way that can be read.
    """
    if hf_quant_config is not None:
        return _modelopt(_section(hf_quant_config, "quantization", "hf_quant_config.json"), "hf_quant_config.json")
    value = config.get("quantization_config")
    if value is None:
        value = config.get("compression_config")  # older compressed-tensors
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise SourceError(f"is {value!r} where an object is needed", where=WHERE)
    method = value.get("quant_method")
    if method is None and ("load_in_4bit" in value or "load_in_8bit" in value):
        method = "bitsandbytes"
    if not isinstance(method, str) or not method:
        raise SourceError(f"'quant_method' is {method!r}, so how it is quantized cannot be known", where=WHERE)
    method = method.lower()
    if method.startswith("modelopt"):
        return _modelopt(value.get("quantization", value), WHERE)
    reader = _READERS.get(method)
    return reader(value) if reader is not None else Quantization(method, bits=_int(value.get("bits")))


def refused_by(quantization: Quantization, builder: str, *, precision: str | None = None) -> tuple[str, str] | None:
    """Why a builder cannot take this checkpoint, and what to do, or None if it can.

    Args:
        builder: name as in the recipe.
        precision: what the recipe asks for. Whoever asks a quantized checkpoint for another quantization is refused.
    """
    what = quantization.describe()
    if precision in _ALGORITHMS.values() and quantization.precision != precision:
        same = f", or set engine.precision to {quantization.precision}" if quantization.precision else ""
        return (
            f"the checkpoint is quantized already ({what}), and the recipe asks for {precision}",
            f"name the checkpoint that it was made from{same}",
        )
    if builder == "onnxruntime":
        return f"the checkpoint is quantized already ({what})", "name the checkpoint that it was made from"
    if builder == "tensorrt_llm":
        if quantization.method == "gptq" and quantization.desc_act:
            return (
                f"the checkpoint is quantized by {what}, and TensorRT-LLM has no kernel for columns in another order",
                "name one that was made with desc_act: false, or use builder 'vllm'",
            )
        if (reason := _misread(quantization)) is not None:
            return (
                f"the checkpoint is quantized by {what}: {reason}",
                "name one with 4 bits, a group_size of 128 or 64 and, of GPTQ, sym: true, or use builder 'vllm'",
            )
        if quantization.method not in ("gptq", "awq", "fbgemm_fp8"):
            return (
                f"the checkpoint is quantized already ({what}), which TensorRT-LLM's conversion scripts do not read",
                "name the checkpoint that it was made from, or use builder 'llmapi' or 'vllm'",
            )
    if builder == "llmapi" and not (quantization.method in ("modelopt", "mxfp4") or quantization.blocks):
        return (
            f"the checkpoint is quantized already ({what}), which TensorRT-LLM's LLM API does not read",
            "name the checkpoint that it was made from with engine.precision, or use builder 'vllm'",
        )
    return None


def _misread(quantization: Quantization) -> str | None:
    """What the conversion scripts take for something else: they set W4A16_GPTQ whatever `bits` and the layout are, and
    `has_zero_point` to what `sym` says, so that zero points that differ are dropped; and the kernels exist for two sizes of
    group (`update_quant_config_from_hf`; fpA_intB_gemm_template.h)."""
    method, bits, group = quantization.method, quantization.bits, quantization.group_size
    if method not in ("gptq", "awq"):
        return None
    if bits is None and method == "gptq":
        return "it does not say how many 'bits' a weight has, and TensorRT-LLM's conversion scripts would read it as 4"
    if bits not in (None, 4):
        return f"TensorRT-LLM's conversion scripts read every weight as 4 bits ('bits' is {bits})"
    if group not in (None, *_GROUPS):
        return f"TensorRT-LLM has kernels for groups of {' and '.join(map(str, _GROUPS))} weights ('group_size' is {group})"
    if method == "gptq" and quantization.symmetric is not True:
        said = "it is not symmetric ('sym' is false)" if quantization.symmetric is False else "it does not say 'sym'"
        return f"{said}, and TensorRT-LLM's conversion scripts keep zero points of symmetric checkpoints only"
    if quantization.algorithm is not None:
        return f"TensorRT-LLM's conversion scripts do not know the layout '{quantization.algorithm}'"
    return None


# ------------------------------------------------------------------------------------------------------------------
# One reader a method
# ------------------------------------------------------------------------------------------------------------------


def _modelopt(value: Mapping[str, Any], where: str) -> Quantization:
    algorithm = value.get("quant_algo")
    kv_cache = value.get("kv_cache_quant_algo")
    if algorithm is None and kv_cache is None:
        raise SourceError("has no 'quant_algo', so how it is quantized cannot be known", where=where)
    if not isinstance(algorithm, (str, type(None))) or not isinstance(kv_cache, (str, type(None))):
        raise SourceError(f"'quant_algo' is {algorithm!r} and 'kv_cache_quant_algo' {kv_cache!r}: texts are needed", where=where)
    return Quantization(
        "modelopt",
        algorithm=algorithm,
        group_size=_int(value.get("group_size")),
        kv_cache=None if kv_cache is None else kv_cache.lower(),
        precision=_ALGORITHMS.get(algorithm or ""),
    )


def _gptq(value: Mapping[str, Any]) -> Quantization:
    return Quantization(
        "gptq",
        algorithm=_layout(value.get("checkpoint_format"), usual="gptq"),
        bits=_int(value.get("bits")),
        group_size=_int(value.get("group_size")),
        desc_act=value.get("desc_act") is True,
        symmetric=value.get("sym") if isinstance(value.get("sym"), bool) else None,
    )


def _awq(value: Mapping[str, Any]) -> Quantization:
    bits = _int(value.get("bits", value.get("w_bit")))
    group = _int(value.get("group_size", value.get("q_group_size")))
    return Quantization("awq", algorithm=_layout(value.get("version"), usual="gemm"), bits=bits, group_size=group)


def _layout(value: object, *, usual: str) -> str | None:
    """How values are packed ("gptq_v2" stores zero points without the offset, "gemv" turns matrices), unless as usual."""
    return value.lower() if isinstance(value, str) and value.lower() != usual else None


def _fp8(value: Mapping[str, Any]) -> Quantization:
    return Quantization("fp8", bits=8, blocks=bool(value.get("weight_block_size")))


def _compressed_tensors(value: Mapping[str, Any]) -> Quantization:
    bits = group = None
    groups = value.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        if isinstance(weights, Mapping):
            bits, group = _int(weights.get("num_bits")), _int(weights.get("group_size"))
            break
    form = value.get("format")
    return Quantization("compressed-tensors", algorithm=form if isinstance(form, str) else None, bits=bits, group_size=group)


def _bitsandbytes(value: Mapping[str, Any]) -> Quantization:
    four = value.get("load_in_4bit") is True or value.get("_load_in_4bit") is True
    return Quantization("bitsandbytes", bits=4 if four else 8)


_READERS = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": lambda value: Quantization("fbgemm_fp8", bits=8),
    "mxfp4": lambda value: Quantization("mxfp4", bits=4),
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
}


def _section(value: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = value.get(name)
    if not isinstance(section, Mapping):
        raise SourceError(f"'{name}' is {section!r} where an object is needed", where=where)
    return section


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
