"""What the `onnxruntime` builder changes before and after the tool runs.

Before, in scratch: a view of the checkpoint, a folder of links with a config.json of its own. The tool takes some things
from config.json that transformers knows by the model's class, so they are written into it.

After: the engine folder is cut down to what `og.Model(folder)` loads, and its settings are put right.

    genai_config.json    shapes, names, special tokens, search defaults (all neutral), batching
    model.onnx           the graph
    model.onnx.data      the weights
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginepress.engines.onnxruntime.model import ModelConfig
from enginepress.engines.onnxruntime.support import FAMILIES
from enginepress.errors import BuildError, SourceError
from enginepress.files import CHUNK_BYTES
from enginepress.recipe import Limits

ENGINE_FILES = ("genai_config.json", "model.onnx", "model.onnx.data")

_NEUTRAL_SEARCH: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,  # 0 is off; the tool's own default, 50, would cut every sampled answer
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "diversity_penalty": 0.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
}

# ------------------------------------------------------------------------------------------------------------------
# Before
# ------------------------------------------------------------------------------------------------------------------


def view_checkpoint(checkpoint: Path, view: Path, model: ModelConfig) -> None:
    """Fills the new folder `view` with links to the checkpoint's files, and with an adapted config.json."""
    view.mkdir()
    for entry in sorted(checkpoint.iterdir()):
        if entry.name != "config.json":
            (view / entry.name).symlink_to(entry.resolve())
    (view / "config.json").write_text(json.dumps(adapted_config(model), indent=1), encoding="utf-8")


def adapted_config(model: ModelConfig) -> dict[str, Any]:
    """The config.json for the tool: what transformers knows by itself, spelled out."""
    family = FAMILIES[model.architecture]
    config = dict(model.raw)
    if family.windows_every_layer and model.sliding_window is not None:
        config["layer_types"] = ["sliding_attention"] * model.layers
    if family.load_float32:
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
    if model.architecture == "Phi3ForCausalLM":
        if model.rope.kind == "longrope":
            key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
            config[key] = {**model.rope.values, "type": "longrope", "rope_type": "longrope"}
        else:  # the tool expects longrope where these two differ
            config["original_max_position_embeddings"] = model.context
    return config


def shares_embeddings(checkpoint: Path, model: ModelConfig) -> bool | None:
    """Whether input and output embeddings are to be shared; None leaves it to the tool, which goes by config.json.

    A checkpoint may say that they are tied and hold two different ones; transformers then uses both.
    """
    if model.tied is False:
        return None
    if not any(checkpoint.glob("*.safetensors")):
        return False  # pickle files: not read here, so on the safe side
    tensors = {name: place for name, place in _tensors(checkpoint) if name in ("lm_head.weight", _EMBEDDING)}
    if "lm_head.weight" not in tensors:
        return None
    return None if _EMBEDDING in tensors and _same_bytes(tensors["lm_head.weight"], tensors[_EMBEDDING]) else False


_EMBEDDING = "model.embed_tokens.weight"
_MAX_HEADER_BYTES = 100_000_000  # of the format
_Place = tuple[Path, int, int]


def _tensors(checkpoint: Path) -> Iterator[tuple[str, _Place]]:
    """Name, file, and first and last byte of each tensor in the checkpoint's safetensors files."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with open(file, "rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > _MAX_HEADER_BYTES:
                    raise ValueError(length)
                header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    yield name, (file, 8 + length + start, 8 + length + end)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            raise SourceError("is not a safetensors file: its header cannot be read", where=str(file)) from None


def _same_bytes(one: _Place, other: _Place) -> bool:
    (file_a, start_a, end_a), (file_b, start_b, end_b) = one, other
    if end_a - start_a != end_b - start_b:
        return False
    with open(file_a, "rb") as a, open(file_b, "rb") as b:
        a.seek(start_a)
        b.seek(start_b)
        left = end_a - start_a
        while left > 0:
            size = min(left, CHUNK_BYTES)
            if a.read(size) != b.read(size):
                return False
            left -= size
    return True


# ------------------------------------------------------------------------------------------------------------------
# After
# ------------------------------------------------------------------------------------------------------------------


def finish_engine(output: Path, limits: Limits) -> None:
    """Removes what `og.Model` does not load, and puts the settings right.

    Raises:
        BuildError: if the tool did not write what it should have.
    """
    missing = [name for name in ENGINE_FILES if not (output / name).is_file()]
    if missing:
        raise BuildError(f"the model builder ended without an error, but wrote no {' and no '.join(missing)}", where=str(output))
    for entry in sorted(output.iterdir()):
        if entry.name not in ENGINE_FILES:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    path = output / "genai_config.json"
    settings = served_settings(json.loads(path.read_text(encoding="utf-8")), limits)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in ENGINE_FILES:
        os.chmod(output / name, 0o644)


def served_settings(settings: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """genai_config.json as the served model needs it.

    The checkpoint's sampling settings are replaced by neutral ones: the server passes everything with each request, and
    what it does not pass must not change an answer. Requests computed together are capped by the recipe, not by 4.
    """
    length = limits.max_sequence_length or settings["model"]["context_length"]
    return {
        **settings,
        "model": {**settings["model"], "context_length": length},
        "search": {**settings["search"], **_NEUTRAL_SEARCH, "max_length": length},
        "engine": {**settings.get("engine", {}), "static_batching": {"max_batch_size": limits.max_batch_size}},
    }
