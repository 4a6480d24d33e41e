"""Finishes a Hugging Face checkpoint that ModelOpt exported: the config.json that every reader understands.

ModelOpt saves config.json in transformers 5's spelling, with the rotary base inside `rope_parameters`. The containers that
serve it may have transformers 4, which looks for `rope_theta` and silently takes 10000. So the checkpoint's own config.json is
kept, with what was added to it, and says the rotary embedding in both spellings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from enginepress.engines.rope_spelling import both_spellings
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
    config = {
        **both_spellings(original),
        "dtype": dtype,
        "torch_dtype": dtype,
        "quantization_config": exported["quantization_config"],
    }
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_tokenizer(checkpoint: Path, output: Path) -> None:
    """Copies what ModelOpt does not export: tokenizer, chat template, generation settings."""
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name.startswith(_KEPT) and file.suffix != ".py":
            shutil.copyfile(file, output / file.name)
