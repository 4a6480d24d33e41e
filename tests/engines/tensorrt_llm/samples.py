"""Recipes and configs for tests of the tensorrt_llm builder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES
from enginepress.recipe import Recipe
from tests.engines.stand_ins.tool import write_tensors

RELEASES = ["0.18.2", "0.19.0", "0.20.0", "0.21.0", "1.0.3.2510", "1.1.0", "1.2.1"]
CALIBRATION = {"data": "/texts.jsonl", "sha256": "0" * 64, "samples": 64, "max_length": 256}


def recipe(**engine: Any) -> Recipe:
    """A recipe whose engine has these fields; `serving` and `source` are the recipe's own."""
    top = {name: engine.pop(name) for name in ("serving", "source") if name in engine}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": "hf://org/name@main",
            "stores": ["file:///store"],
            **top,
            "engine": {
                "builder": "tensorrt_llm",
                "precision": "float16",
                "gpu": {"name": "H100-SXM5-80GB", "count": 8},
                **engine,
            },
        }
    )


def config(architecture: str = "LlamaForCausalLM", **more: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 512,
        "vocab_size": 256,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        **more,
    }


def calibration(folder: Path) -> dict[str, Any]:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"Text number {n} — Grüße"}) + "\n" for n in range(5)))
    return {"data": str(path), "samples": 4}


def checkpoint(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(**more)))
    write_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": ("F16", (256, 64))})
    return folder


ALL = sorted(ARCHITECTURES)
