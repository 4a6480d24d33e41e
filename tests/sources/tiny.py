"""Checkpoints of a few kilobytes, as bytes by path: enough for sources, which load no model."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PART = 64 * 1024 * 1024
"""Python makes no more random bytes than 256 MiB at once."""

INDEX = "model.safetensors.index.json"

TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    }
).encode()


def tensor_file(names: Mapping[str, int], *, seed: int = 0) -> bytes:
    """A safetensors file of U8 vectors with these lengths and random bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, length in names.items():
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [end, end + length]}
        end += length
    random_ = random.Random(seed)
    body = b"".join(random_.randbytes(min(_PART, end - at)) for at in range(0, end, _PART))
    return with_header(header, body)


def with_header(header: Any, body: bytes = b"") -> bytes:
    """A file of this header (a value, or its bytes) and this body."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def checkpoint(*, shards: int = 1, size: int = 4000, seed: int = 0) -> dict[str, bytes]:
    """A whole checkpoint: `shards` weight files of about `size` bytes, config, tokenizer and things that no build needs."""
    files = {
        "config.json": json.dumps({"model_type": "llama", "seed": seed}).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
        "README.md": b"# tiny\n",
        "LICENSE": b"Apache-2.0\n",
        ".gitattributes": b"*.safetensors filter=lfs\n",
    }
    if shards == 1:
        return {**files, "model.safetensors": tensor_file({"a": size, "b": 10}, seed=seed)}
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        files[name] = tensor_file({f"layer.{number}": size, f"norm.{number}": 10}, seed=seed * 100 + number)
        weight_map |= {f"layer.{number}": name, f"norm.{number}": name}
    return {**files, INDEX: json.dumps({"metadata": {"total_size": shards * (size + 10)}, "weight_map": weight_map}).encode()}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files into a folder, which is made."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder
