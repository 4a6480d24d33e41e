"""Reads and writes tensors one at a time, so that no second copy of a model ever lies in memory. Needs torch.

The safetensors library collects a file's tensors before it writes, or maps whole files into memory; both count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from enginepress.errors import BuildError
from enginepress.sources.safetensors_header import Tensor, read_header

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {kind: code for code, kind in _TYPES.items()}


class TensorFolder:
    """The safetensors files of a folder as one mapping from names to tensors that are read when they are asked for."""

    def __init__(self, folder: Path, pattern: str = "*.safetensors") -> None:
        self._places: dict[str, tuple[Path, int, Tensor]] = {}
        for file in sorted(folder.glob(pattern)):
            header = read_header(file)
            self._places.update({name: (file, header.size, tensor) for name, tensor in header.tensors.items()})

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> set[str]:
        return set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name][2].shape

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in memory of its own.

        Raises:
            BuildError: if there is none of this name, or its type is not known.
        """
        if name not in self._places:
            raise BuildError(f"tensor '{name}' is missing")
        file, start, tensor = self._places[name]
        if tensor.dtype not in _TYPES:
            raise BuildError(f"tensor '{name}' has the type {tensor.dtype}, which is not read here", where=str(file))
        data = bytearray(tensor.end - tensor.start)
        with open(file, "rb") as stream:
            stream.seek(start + tensor.start)
            if stream.readinto(data) != len(data):
                raise BuildError("ended while it was read", where=str(file))
        if not data:
            return torch.empty(tensor.shape, dtype=_TYPES[tensor.dtype])
        return torch.frombuffer(data, dtype=_TYPES[tensor.dtype]).reshape(tensor.shape)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a safetensors file, in the order of the names; the same tensors give the same bytes."""
    header: dict[str, Any] = {}
    end = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(tensors):
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                stream.write(flat.view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
