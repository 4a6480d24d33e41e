"""Checks of files as such: links that lead out, empty files, what a failed download leaves in a weight's place."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator

from enginepress.errors import UnsafePathError
from enginepress.repository.findings import Finding, error
from enginepress.repository.inventory import Entry, Model, Repository
from enginepress.repository.links import link_target

WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pt2", ".pth", ".onnx", ".data", ".plan", ".engine", ".gguf", ".npz"}
    | {".graphdef", ".pb", ".xml", ".mar", ".ckpt", ".model"}
)
TEXTS = frozenset({".json", ".pbtxt", ".yaml", ".yml", ".jinja", ".txt"})
NEVER_EMPTY = frozenset({".json", ".pbtxt"})

_MAX_HEADER = 100_000_000
_PAGE = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<(!doctype html|html|error)\b", re.IGNORECASE)
"""A login page, or what an object store answers instead of the object."""


def check_files(repository: Repository, model: Model) -> Iterator[Finding]:
    """Every file of a model."""
    for entry in model.entries.values():
        yield from _check_file(repository, model, entry)


def _check_file(repository: Repository, model: Model, entry: Entry) -> Iterator[Finding]:
    file = f"{model.name}/{entry.path}"
    if entry.link:
        parts = entry.path.split("/")
        try:
            link_target(repository.root, f"{model.name}/{entry.path}", version=parts[0])
        except UnsafePathError as problem:
            yield error(model.name, file, problem.message, "put the file itself there, or a hard link")
            return
    suffix = _suffix(entry.path)
    if not entry.regular:
        if not entry.link:
            yield error(model.name, file, "is no regular file, or cannot be read")
        return
    if suffix not in WEIGHTS and suffix not in TEXTS:
        return
    if entry.size == 0:
        if suffix in WEIGHTS or suffix in NEVER_EMPTY:
            yield error(model.name, file, "is empty", "fetch or build the file again")
        return
    start = model.read(entry.path, 512)
    if start is None:
        yield error(model.name, file, "cannot be read", "check the file's rights")
        return
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        yield error(
            model.name, file, "is a Git LFS pointer, not the file itself", "run `git lfs pull` where it came from, and copy it"
        )
    elif suffix != ".jinja" and _PAGE.match(start):
        yield error(model.name, file, "is a web page, not the file itself", "the download failed: fetch the file again")
    elif suffix == ".safetensors":
        yield from _check_safetensors(model, entry, file)


def _check_safetensors(model: Model, entry: Entry, file: str) -> Iterator[Finding]:
    """Header length, header, and the end of the last tensor against the file's size."""
    again = "fetch or convert the file again"
    start = model.read(entry.path, 8) or b""
    if len(start) < 8:
        yield error(model.name, file, f"is cut off: {entry.size} bytes are no safetensors file", again)
        return
    (length,) = struct.unpack("<Q", start)
    if length > min(entry.size - 8, _MAX_HEADER):
        yield error(model.name, file, f"is damaged or cut off: its header claims {length} of {entry.size} bytes", again)
        return
    try:
        header = json.loads((model.read(entry.path, 8 + length) or b"")[8:])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        yield error(model.name, file, "is damaged: its safetensors header cannot be read", again)
        return
    if expected != entry.size:
        yield error(model.name, file, f"is damaged or cut off: {entry.size} bytes, its header describes {expected}", again)


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name.lstrip(".") else ""
