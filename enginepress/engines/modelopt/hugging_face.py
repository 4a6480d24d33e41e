"""Finishes a Hugging Face checkpoint that ModelOpt exported: the config.json that every reader understands.

ModelOpt saves config.json in transformers 5's spelling, with the rotary base inside `rope_parameters`. The containers that
serve it may have transformers 4, which looks for `rope_theta` and silently takes 10000. So the checkpoint's own config.json is
kept, with what was added to it, and says the rotary embedding in both spellings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from enginepress.errors import BuildError

_KEPT = (
    "tokenizer",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "chat_template",
    "generation_config.json",
)
"""Starts of the names of files that a served model needs besides weights and config."""


def finish_config(checkpoint: Path, output: Path, dtype: str) -> None:
    """Writes config.json.

    Raises:
        BuildError: if ModelOpt did not say how it quantized.
    """
    exported = json.loads((output / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" not in exported or not (output / "hf_quant_config.json").is_file():
        raise BuildError("ModelOpt wrote no 'quantization_config' and hf_quant_config.json", where=str(output))
    original = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config = {**both_spellings(original, dtype), "quantization_config": exported["quantization_config"]}
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def both_spellings(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """config.json with the rotary embedding and the type as transformers 4 and transformers 5 look for them."""
    both = {**config, "dtype": dtype, "torch_dtype": dtype}
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        return both
    values = {key: value for key, value in parameters.items() if key != "rope_theta"}
    if parameters.get("rope_theta") is not None:
        both["rope_theta"] = parameters["rope_theta"]
    kind = values.get("rope_type", values.get("type", "default"))
    both["rope_scaling"] = None if kind == "default" else {"type": kind, **values}
    return both


def copy_tokenizer(checkpoint: Path, output: Path) -> None:
    """Copies what ModelOpt does not export: tokenizer, chat template, generation settings."""
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name.startswith(_KEPT) and file.suffix != ".py":
            shutil.copyfile(file, output / file.name)
