"""Checks the weights of a checkpoint that lies on disk: index, shards, headers. Loads no tensor.

    model.safetensors.index.json    {"metadata": {…}, "weight_map": {"<tensor>": "<file>"}}

An index is written by strangers. Its file names are compared with files that are known to be there; no path is ever made
from one of them unchecked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.errors import SourceError
from enginepress.files import check_relative
from enginepress.json_text import parse_json
from enginepress.sources.safetensors_header import Header, read_header

INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"

_MIXED = "index and shards are of different checkpoints: fetch all of them again, or ask their publisher"

_LFS = b"version https://git-lfs.github.com/spec/"
_FOREIGN = (
    (_LFS, "a git-lfs pointer, not the weights themselves", "run `git lfs pull` in the folder that it came from"),
    (b"GGUF", "a GGUF file", "name a checkpoint in safetensors"),
    (
        b"PK\x03\x04",
        "a PyTorch pickle (zip)",
        "name a checkpoint in safetensors, or convert it on a machine that may run its code",
    ),
    (b"\x80\x02", "a Python pickle", "name a checkpoint in safetensors, or convert it on a machine that may run its code"),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
)


def parse_index(raw: bytes, *, where: str) -> dict[str, str]:
    """Which file has which tensor.

    Raises:
        SourceError: if `raw` is no index.
        UnsafePathError: if a file name could lead out of the checkpoint's folder.
    """
    if raw.startswith(_LFS):
        raise SourceError("is a git-lfs pointer, not the index itself", where=where, fix=_FOREIGN[0][2])
    data = parse_json(raw, where=where, pairs=lambda pairs: _unique(pairs, where))
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise SourceError("is no index of shards: it has no weight_map from tensors to files", where=where)
    for file in set(weight_map.values()):
        check_relative(file)
    return weight_map


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise SourceError("has a key that occurs twice, so readers may disagree about it", where=where)
    return found


def check_weights(paths: Mapping[str, Path]) -> None:
    """Whether the weights of a checkpoint are whole and belong together, and no file is a stand-in for one.

    Every safetensors file has a valid header and exactly the bytes that it announces; every shard that the index names is
    there and has the tensors that the index says. Of pickle files, which cannot be checked without running them, only
    those are refused that are obviously something else.

    Args:
        paths: the checkpoint's files by their names in it, and where each really lies.

    Raises:
        SourceError: naming the file and what is wrong with it.
    """
    headers: dict[str, Header] = {}
    for name, path in sorted(paths.items()):
        if name.endswith((".safetensors", ".bin")):
            _check_foreign(path, pickle=name.endswith(".bin"))
        else:
            _check_pointer(path)
        if name.endswith(".safetensors"):
            headers[name] = read_header(path)
            if not headers[name].tensors:
                raise SourceError("holds no tensor", where=str(path))
    if INDEX in paths:
        _check_index(paths, headers)


def _check_index(paths: Mapping[str, Path], headers: Mapping[str, Header]) -> None:
    """Index and shards name the same tensors. The index' `total_size` is not compared: published ones often have it wrong."""
    index = paths[INDEX]
    weight_map = parse_index(index.read_bytes(), where=str(index))
    for file in sorted(set(weight_map.values()) & set(headers)):
        for tensor in headers[file].tensors:
            if weight_map.get(tensor) != file:
                said = f"says {weight_map[tensor]!r} has" if tensor in weight_map else "does not know"
                raise SourceError(f"holds the tensor {tensor!r}, which {INDEX} {said}", where=str(paths[file]), fix=_MIXED)
    for tensor, file in sorted(weight_map.items()):
        if file not in headers:
            raise SourceError(f"names the shard {file!r}, which is not there", where=str(index))
        if tensor not in headers[file].tensors:
            raise SourceError(
                f"does not hold the tensor {tensor!r}, which {INDEX} says it has",
                where=str(paths[file]),
                fix=_MIXED,
            )


def _check_pointer(path: Path) -> None:
    """Refuses what `git clone` leaves of a file that git-lfs keeps."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(_LFS))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if start == _LFS:
        raise SourceError("is a git-lfs pointer, not the file itself", where=str(path), fix=_FOREIGN[0][2])


def _check_foreign(path: Path, *, pickle: bool) -> None:
    """Refuses what is often found under a weight file's name, and says what it is."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not start:
        raise SourceError("is empty", where=str(path), fix="fetch the file again from where it came from")
    for magic, what, fix in _FOREIGN:
        if start.startswith(magic) and not (pickle and "ickle" in what):
            raise SourceError(f"is {what}", where=str(path), fix=fix)
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise SourceError("is a web page, not weights", where=str(path), fix="the download saved an error page: fetch it again")
    if text.startswith(b'{"error"'):
        raise SourceError("is an error message, not weights", where=str(path), fix="fetch the file again")
