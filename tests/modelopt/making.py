"""Checkpoints and recipes for tests of the conversion by ModelOpt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginepress.engines.modelopt.support import FORMATS
from enginepress.recipe import Recipe

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
"""Blocks of 128 fit twice, so that every precision can be made on two GPUs."""

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "once upon a time there was a small model that could answer every question",
    "a channel is a movable name for one release of a model",
    "permission is hereby granted, free of charge",
)


def calibration_file(folder: Path) -> Path:
    path = folder / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def recipe(precision: str = "float16", *, calibration: Path | None = None, **engine: Any) -> Recipe:
    """A recipe that asks for a TensorRT-LLM engine by ModelOpt, with these texts if anything is measured with them."""
    data: dict[str, Any] = {"builder": "tensorrt_llm", "converter": "modelopt", "precision": precision, **engine}
    if calibration is not None and (FORMATS.get(precision, FORMATS["fp8"]).calibrated or "kv_cache" in engine):
        data["calibration"] = {"data": str(calibration), "samples": 4, "max_length": 32, "batch_size": 2}
    return Recipe.model_validate({"name": "tiny", "source": "file:///checkpoint", "stores": ["file:///store"], "engine": data})
