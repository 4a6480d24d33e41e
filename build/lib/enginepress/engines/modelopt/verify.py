"""Compares every tensor that was written with the checkpoint that it was made from. Needs torch.

What is not quantized must be the same bit for bit, after rounding to the 16-bit type: embeddings, norms, biases, the head,
and everything if no weight is quantized. A quantized weight is decoded with its own scaling factors and must be near
the original. The bounds are about three times what rounding costs; taking another tensor, another part of it or a wrong scale
costs far more (two unrelated tensors of one size differ by 1.4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from enginepress.engines.modelopt.tensor_files import TensorFolder
from enginepress.errors import BuildError

BOUNDS = {"FP8": 0.1, "W8A8_SQ_PER_CHANNEL": 0.1, "W4A16_AWQ": 0.4, "W4A8_AWQ": 0.4, "NVFP4": 0.35}
"""Largest relative error (Frobenius norm) of a decoded weight, by `quant_algo`."""

DAMAGED = "get the checkpoint again, or another one: it is damaged at its source"

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
"""Values of the sixteen 4-bit floats of NVFP4 (OCP Microscaling Formats, E2M1)."""

# ------------------------------------------------------------------------------------------------------------------
# TensorRT-LLM checkpoints
# ------------------------------------------------------------------------------------------------------------------


def verify_tensorrt_llm(checkpoint: Path, output: Path) -> None:
    """Every tensor of every rank.

    Raises:
        BuildError: naming the rank and the tensor.
    """
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    source = _Source(TensorFolder(checkpoint), config)
    seen: set[str] = set()
    for rank in range(config["mapping"]["world_size"]):
        written = TensorFolder(output, f"rank{rank}.safetensors")
        for name in sorted(written.names()):
            if name.endswith(("weight", "bias")):
                expected, used = source.expected(name, rank)
                seen |= used
                _compare(written, name, expected, config, f"rank {rank}, {name}", _NVIDIA)
            else:
                _check_factor(written.read(name), f"rank {rank}, {name}")
    _check_all_used(source.tensors.names(), seen)


class _Source:
    """What each tensor of each rank must be, from the checkpoint."""

    def __init__(self, tensors: TensorFolder, config: dict[str, Any]) -> None:
        self.tensors = tensors
        self.config = config
        self.dtype: torch.dtype = getattr(torch, config["dtype"])
        self.tp: int = config["mapping"]["tp_size"]
        self.layers: int = config["num_hidden_layers"] // config["mapping"]["pp_size"]

    def expected(self, name: str, rank: int) -> tuple[torch.Tensor, set[str]]:
        """The tensor and the checkpoint's names of what it is made from."""
        part, stage = rank % self.tp, rank // self.tp
        if not name.startswith("transformer.layers."):
            return self._outside(name, part)
        _, _, layer, rest = name.split(".", 3)
        prefix = f"model.layers.{stage * self.layers + int(layer)}."
        module, _, kind = rest.rpartition(".")
        if module == "attention.qkv":
            names = [f"{prefix}self_attn.{which}_proj.{kind}" for which in "qkv"]
            heads = (self.config["num_attention_heads"], self.config["num_key_value_heads"], self.config["num_key_value_heads"])
            parts = [self._heads(self.tensors.read(n), h, part) for n, h in zip(names, heads, strict=True)]
            return torch.cat(parts).to(self.dtype), set(names)
        if module not in _MODULES:
            raise BuildError(f"ModelOpt wrote '{name}', which nobody reads")
        theirs, how = _MODULES[module]
        tensor = self.tensors.read(prefix + theirs + "." + kind)
        if how == "rows" or (how == "columns" and kind == "weight"):
            tensor = tensor.chunk(self.tp, dim=0 if how == "rows" else 1)[part]
        return tensor.to(self.dtype), {prefix + theirs + "." + kind}

    def _outside(self, name: str, part: int) -> tuple[torch.Tensor, set[str]]:
        if name == "transformer.ln_f.weight":
            return self.tensors.read("model.norm.weight").to(self.dtype), {"model.norm.weight"}
        if name == "transformer.vocab_embedding.weight":
            theirs = "model.embed_tokens.weight"
        elif name == "lm_head.weight":
            theirs = "lm_head.weight" if "lm_head.weight" in self.tensors else "model.embed_tokens.weight"
        else:
            raise BuildError(f"ModelOpt wrote '{name}', which nobody reads")
        table = self.tensors.read(theirs)
        rows = -(-table.shape[0] // self.tp)
        return torch.nn.functional.pad(table, (0, 0, 0, rows * self.tp - table.shape[0]))[part * rows :][:rows].to(self.dtype), {
            theirs
        }

    def _heads(self, tensor: torch.Tensor, heads: int, part: int) -> torch.Tensor:
        """This rank's heads; with fewer heads than ranks, the one that it shares with others."""
        by_head = tensor.reshape(heads, tensor.shape[0] // heads, *tensor.shape[1:])
        if heads >= self.tp:
            mine = by_head.chunk(self.tp)[part]
        else:
            mine = by_head[part * heads // self.tp :][:1]
        return mine.reshape(-1, *tensor.shape[1:])


_MODULES = {
    "input_layernorm": ("input_layernorm", "whole"),
    "post_layernorm": ("post_attention_layernorm", "whole"),
    "attention.dense": ("self_attn.o_proj", "columns"),
    "attention.q_layernorm": ("self_attn.q_norm", "whole"),
    "attention.k_layernorm": ("self_attn.k_norm", "whole"),
    "mlp.fc": ("mlp.gate_proj", "rows"),
    "mlp.gate": ("mlp.up_proj", "rows"),
    "mlp.proj": ("mlp.down_proj", "columns"),
}
"""TensorRT-LLM's module, the checkpoint's, and how it is split. `fc` is what the activation is applied to."""

# ------------------------------------------------------------------------------------------------------------------
# Hugging Face checkpoints
# ------------------------------------------------------------------------------------------------------------------


def verify_hugging_face(checkpoint: Path, output: Path) -> None:
    """Every tensor of the checkpoint.

    Raises:
        BuildError: naming the tensor.
    """
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    algorithm = json.loads((output / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]["quant_algo"]
    dtype = getattr(torch, config["dtype"])
    source, written = TensorFolder(checkpoint), TensorFolder(output)
    quantization = {"quantization": {"quant_algo": algorithm}}
    folded: dict[str, torch.Tensor] = {}
    for name in sorted(source.names()):
        if name == "lm_head.weight" and name not in written and config.get("tie_word_embeddings"):
            continue
        expected = source.read(name).to(dtype)
        if name.endswith(_FOLDING) and algorithm in ("W4A16_AWQ", "W4A8_AWQ"):
            # AWQ's scales of the activations are folded into the norm before them.
            folded[name] = written.read(name).float() / expected.float()
            _check_factor(folded[name], name)
            continue
        norm = _norm_before(name)
        if norm in folded:
            expected = expected.float() / folded[norm]
        _compare(written, name, expected, quantization, name, _HUGGING_FACE)
    factors = written.names() - source.names()
    for name in sorted(factors):
        if not name.endswith(_FACTORS):
            raise BuildError(f"ModelOpt wrote '{name}', which the checkpoint does not have")
        _check_factor(written.read(name), name)


_FOLDING = ("input_layernorm.weight", "post_attention_layernorm.weight")
_FACTORS = ("_scale", "_scale_2")


def _norm_before(name: str) -> str:
    """The norm whose output goes into this linear layer; its name occurs in `folded` if scales were folded into it."""
    prefix, _, rest = name.rpartition(".self_attn.")
    if prefix and rest in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        return f"{prefix}.input_layernorm.weight"
    prefix, _, rest = name.rpartition(".mlp.")
    return f"{prefix}.post_attention_layernorm.weight" if rest in ("gate_proj.weight", "up_proj.weight") else ""


# ------------------------------------------------------------------------------------------------------------------
# One tensor
# ------------------------------------------------------------------------------------------------------------------

_Names = Callable[[str], tuple[str, str, str]]


def _NVIDIA(name: str) -> tuple[str, str, str]:
    base = name.removesuffix("weight")
    return f"{base}weights_scaling_factor", f"{base}weights_scaling_factor_2", f"{base}prequant_scaling_factor"


def _HUGGING_FACE(name: str) -> tuple[str, str, str]:
    return f"{name}_scale", f"{name}_scale_2", name.removesuffix("weight") + "pre_quant_scale"


def _compare(written: TensorFolder, name: str, expected: torch.Tensor, config: dict[str, Any], what: str, names: _Names) -> None:
    if name not in written:
        raise BuildError(f"{what}: ModelOpt did not write it")
    tensor = written.read(name)
    scale, scale_2, before = names(name)
    if scale not in written:
        if tensor.shape != expected.shape:
            raise BuildError(f"{what}: has the shape {tuple(tensor.shape)}, and the checkpoint's is {tuple(expected.shape)}")
        if not torch.equal(expected, expected):
            raise BuildError(f"{what}: the checkpoint itself has values there that are no numbers", fix=DAMAGED)
        if tensor.dtype != expected.dtype or not torch.equal(tensor, expected):
            raise BuildError(f"{what}: is not what the checkpoint has")
        return
    algorithm = config["quantization"]["quant_algo"]
    decoded = decode(tensor, written.read(scale), written.read(scale_2) if scale_2 in written and algorithm == "NVFP4" else None)
    if before in written:
        decoded = decoded * written.read(before).float()
    if decoded.shape != expected.shape:
        raise BuildError(f"{what}: has the shape {tuple(decoded.shape)}, and the checkpoint's is {tuple(expected.shape)}")
    norm = expected.float().norm().item()
    if not math.isfinite(norm):
        raise BuildError(f"{what}: the checkpoint itself has values there that are no numbers or too large", fix=DAMAGED)
    error = (decoded - expected.float()).norm().item() / norm if norm else decoded.norm().item()
    if not error <= BOUNDS[algorithm]:
        raise BuildError(f"{what}: decoded, it differs by {error:.2f} from the checkpoint's; {BOUNDS[algorithm]} is allowed")


def decode(weight: torch.Tensor, scale: torch.Tensor, scale_2: torch.Tensor | None) -> torch.Tensor:
    """The float32 weight (out, in) that a quantized one stands for.

    Args:
        weight: float8; int8 with a scale a row; NVFP4, two columns a byte, with a float8 scale for each 16 columns; or 4-bit
            integers, two rows a byte, with a scale for each block of columns.
        scale_2: NVFP4's factor of the whole tensor.
    """
    if weight.dtype == torch.float8_e4m3fn:
        return weight.float() * scale.float()
    if scale.dtype == torch.float8_e4m3fn and scale_2 is not None:
        codes = weight.view(torch.uint8)
        values = _E2M1[torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1).long()]
        return values * (scale.float() * scale_2.float()).repeat_interleave(values.shape[1] // scale.shape[1], dim=1)
    if scale.dim() == 1:
        return weight.float() * scale.float()[:, None]
    codes = weight.view(torch.uint8).to(torch.int16)
    rows = torch.stack((codes & 15, codes >> 4), dim=1).flatten(0, 1)
    signed = torch.where(rows > 7, rows - 16, rows).float()
    return signed * scale.float().repeat_interleave(signed.shape[1] // scale.shape[1], dim=1)


def _check_factor(tensor: torch.Tensor, what: str) -> None:
    values = tensor.float()
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or (values.numel() == 1 and values.item() == 0):
        raise BuildError(
            f"{what}: is no scaling factor: it has values that are negative, infinite or no numbers",
            fix="calibrate with other texts, or look whether the checkpoint's weights there are numbers at all",
        )


def _check_all_used(names: set[str], used: set[str]) -> None:
    left = sorted(n for n in names - used if not n.endswith("rotary_emb.inv_freq"))
    if left:
        raise BuildError(f"ModelOpt left out the checkpoint's '{left[0]}'" + (f" and {len(left) - 1} more" if left[1:] else ""))
