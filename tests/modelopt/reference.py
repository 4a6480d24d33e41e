"""What TensorRT-LLM would compute from a checkpoint: an independent forward pass over its tensors, in float32.

A stand-in for trtllm-build and the engine, which need a GPU. It knows the checkpoint only: config.json, with TensorRT-LLM's
defaults for what it does not say, and the rank files. Tensor-parallel parts compute on their own and are summed or put side
by side, pipeline stages one after the other, as the ranks of an engine do. The arithmetic was written down from
NVIDIA/TensorRT-LLM: models/llama/model.py, models/qwen/model.py, layers/attention.py, layers/mlp.py, functional.py,
quantization/layers.py and models/modeling_utils.py (`preprocess_weights`). Quantized weights are decoded; activations
are not rounded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class Engine:
    """All ranks of one checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        mapping = self.config.get("mapping", {})
        self.tp, self.pp = mapping.get("tp_size", 1), mapping.get("pp_size", 1)
        self.ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in range(self.tp * self.pp)]
        self.qwen = self.config["architecture"].startswith("Qwen")

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """(token, vocabulary)."""
        config = self.config
        first, last = self.ranks[: self.tp], self.ranks[-self.tp :]
        table = self._gathered([rank["transformer.vocab_embedding.weight"] for rank in first])
        hidden = table[tokens].float() * (1.0 if self.qwen else config.get("embedding_multiplier", 1.0))
        cos, sin = self._rotary(len(tokens))
        for stage in range(self.pp):
            for layer in range(config["num_hidden_layers"] // self.pp):
                parts = [Part(rank, f"transformer.layers.{layer}.", self) for rank in self.ranks[stage * self.tp :][: self.tp]]
                hidden = self._layer(parts, hidden, cos, sin)
        hidden = self._norm(hidden, last[0]["transformer.ln_f.weight"])
        heads = [rank.get("lm_head.weight", rank.get("transformer.vocab_embedding.weight")) for rank in last]
        logits = hidden @ self._gathered(heads).float().T
        return logits[:, : config["vocab_size"]] * (1.0 if self.qwen else config.get("output_multiplier_scale", 1.0))

    def _gathered(self, parts: list[Any]) -> torch.Tensor:
        return (
            torch.cat(parts)
            if self.config.get("use_parallel_embedding", False) or parts[0].shape[0] < self.config["vocab_size"]
            else parts[0]
        )

    def _layer(self, parts: list[Part], hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        residual = 1.0 if self.qwen else self.config.get("residual_multiplier", 1.0)
        normed = self._norm(hidden, parts[0].tensor("input_layernorm.weight"))
        attended = sum(part.attention(normed, cos, sin) for part in parts)
        if self.config.get("attn_bias", self.qwen) and not self.qwen:
            attended = attended + parts[0].tensor("attention.dense.bias").float()
        hidden = hidden + attended * residual
        normed = self._norm(hidden, parts[0].tensor("post_layernorm.weight"))
        out = sum(part.mlp(normed) for part in parts)
        if self.config.get("mlp_bias", False):
            out = out + parts[0].tensor("mlp.proj.bias").float()
        return hidden + out * residual

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.get("norm_epsilon", 1e-5)) * weight.float()

    def _rotary(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        size, base = self.config["head_size"], self.config.get("rotary_base", 10000.0)
        frequencies = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
        scaling = self.config.get("rotary_scaling")
        if scaling is not None:
            kind = scaling.get("type", scaling.get("rope_type"))
            if kind == "linear":
                frequencies = frequencies / scaling["factor"]
            elif kind == "llama3":
                frequencies = torch.tensor([_llama3(f, scaling) for f in frequencies.tolist()], dtype=torch.float64)
            else:
                raise ValueError(kind)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        return torch.cos(angles).float(), torch.sin(angles).float()


class Part:
    """One rank's share of one layer."""

    def __init__(self, tensors: dict[str, torch.Tensor], prefix: str, engine: Engine) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._config, self._tp, self._qwen = engine.config, engine.tp, engine.qwen
        self._norm = engine._norm

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[self._prefix + name]

    def attention(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        size, length = self._config["head_size"], x.shape[0]
        heads = self._config["num_attention_heads"] // self._tp
        kv_heads = max(1, self._config["num_key_value_heads"] // self._tp)
        qkv = self.linear("attention.qkv", x)
        if self._config.get("attn_bias", self._qwen):
            qkv = qkv + self.tensor("attention.qkv.bias").float()
        q, k, v = (
            t.reshape(length, -1, size).transpose(0, 1) for t in qkv.split([heads * size, kv_heads * size, kv_heads * size], -1)
        )
        if self._config.get("qwen_type") == "qwen3":
            q, k = (
                self._norm(q, self.tensor("attention.q_layernorm.weight")),
                self._norm(k, self.tensor("attention.k_layernorm.weight")),
            )
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
        scale = (1.0 if self._qwen else self._config.get("attention_multiplier", 1.0)) / math.sqrt(size)
        scores = q @ k.transpose(1, 2) * scale + torch.full((length, length), -math.inf).triu(1)
        return self.linear("attention.dense", (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        fc, gate = self.linear("mlp.fc", x), self.linear("mlp.gate", x)
        if self._config.get("mlp_bias", False):
            fc, gate = fc + self.tensor("mlp.fc.bias").float(), gate + self.tensor("mlp.gate.bias").float()
        assert self._config["hidden_act"] == "silu"
        return self.linear("mlp.proj", torch.nn.functional.silu(fc) * gate)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        factor = self._tensors.get(f"{self._prefix}{name}.prequant_scaling_factor")
        return (x if factor is None else x * factor.float()) @ self._weight(name).T

    def _weight(self, name: str) -> torch.Tensor:
        weight = self.tensor(f"{name}.weight")
        algorithm = self._config["quantization"]["quant_algo"]
        if algorithm in (None, "W8A16", "W4A16"):
            return weight.float()
        scale = self.tensor(f"{name}.weights_scaling_factor").float()
        if algorithm == "FP8":
            return weight.float() * scale
        if algorithm == "W8A8_SQ_PER_CHANNEL":
            return weight.float() * scale.unsqueeze(1)
        if algorithm == "NVFP4":
            low, high = weight % 16, weight // 16
            codes = torch.stack([low, high], -1).reshape(weight.shape[0], -1)
            values = torch.tensor(_FP4 + [-v for v in _FP4])[codes.int()]
            values = (
                values.reshape(weight.shape[0], -1, 16) * scale.unsqueeze(-1) * self.tensor(f"{name}.weights_scaling_factor_2")
            )
            return values.reshape(weight.shape[0], -1)
        # AWQ: rows 2i and 2i+1 in the low and the high half of a byte, two's complement
        low, high = (weight << 4) >> 4, weight >> 4
        rows = torch.stack([low, high], 1).reshape(-1, weight.shape[1]).float()
        return (rows.reshape(rows.shape[0], -1, self._config["quantization"]["group_size"]) * scale.unsqueeze(-1)).reshape(
            rows.shape
        )


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """GPT-NeoX's way: the first half of a head with the second."""
    one, two = x.chunk(2, -1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)


def _llama3(frequency: float, scaling: dict[str, Any]) -> float:
    wavelength = 2 * math.pi / frequency
    context = scaling["original_max_position_embeddings"]
    if wavelength < context / scaling["high_freq_factor"]:
        return frequency
    if wavelength > context / scaling["low_freq_factor"]:
        return frequency / scaling["factor"]
    smooth = (context / wavelength - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
    return (1 - smooth) * frequency / scaling["factor"] + smooth * frequency
