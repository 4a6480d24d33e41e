"""Files and folders of a repository that are wrong: missing, cut off, or something else than their name says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.repository.validate import validate
from tests.repository import samples
from tests.repository.mistakes import ENGINE, PRE, RECORD, Files, trt

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4096\n"
SAFETENSORS_HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


def safetensors(header: bytes, body: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


FILE_MISTAKES: dict[str, tuple[Callable[[], Files], str, str | bytes | None, str, str]] = {
    "missing model.py": (
        lambda: {**samples.chain(), "first/1/util.py": ""},
        "first/1/model.py",
        None,
        "first/1",
        "has no model.py, which backend 'python' loads",
    ),
    "missing onnx": (samples.onnx, "scorer/1/model.onnx", b"", "scorer/1/model.onnx", "is empty"),
    "lfs weights": (samples.genai, "tiny/1/engine/model.onnx.data", LFS, "", "is a Git LFS pointer"),
    "lfs tokenizer": (samples.genai, "tiny/1/tokenizer/tokenizer.json", LFS, "", "is a Git LFS pointer"),
    "web page": (samples.genai, "tiny/1/engine/model.onnx", "\n<!DOCTYPE html><html>", "", "is a web page"),
    "store's answer": (samples.genai, "tiny/1/engine/model.onnx", "<?xml version='1.0'?>\n<Error>", "", "is a web page"),
    "empty engine": (trt, "llama-engine/1/engine/rank1.engine", b"", "", "is empty"),
    "missing rank": (trt, "llama-engine/1/engine/rank1.engine", None, ENGINE, "missing: rank1.engine"),
    "missing record": (trt, RECORD, None, ENGINE, "has no readable config.json"),
    "missing tokenizer": (trt, "llama-preprocessing/1/tokenizer/tokenizer.json", None, PRE, "is not in the repository"),
    "no tokenizer beside the engine": (samples.genai, "tiny/1/tokenizer/tokenizer.json", None, "tiny/1", "has no tokenizer"),
    "no ensemble version": (samples.chain, "chain/1/.keep", None, "chain", "has no version folder; an ensemble needs one too"),
    "no version": (samples.onnx, "scorer/1/model.onnx", None, "scorer", "has no version folder"),
    "no config, no backend": (samples.onnx, "junk/readme.txt", "x", "junk", "has no config.pbtxt, and no file by which"),
    "hidden folder": (samples.onnx, ".git/HEAD", "x", ".git", "has no config.pbtxt, and no file by which"),
    "version with a suffix": (samples.onnx, "scorer/2.bak/x", "x", "scorer/2.bak", "Triton takes this folder for version 2"),
    "empty config.json": (samples.vllm, "chat/1/checkpoint/config.json", "", "", "is empty"),
    "cut safetensors": (samples.vllm, "chat/1/checkpoint/m.safetensors", safetensors(SAFETENSORS_HEADER, b"1234"), "", "cut off"),
    "huge header": (samples.vllm, "chat/1/checkpoint/m.safetensors", safetensors(b"{}", b"", 2**60), "", "header claims"),
    "short safetensors": (samples.vllm, "chat/1/checkpoint/m.safetensors", b"abc", "", "3 bytes are no safetensors file"),
    "garbage header": (samples.vllm, "chat/1/checkpoint/m.safetensors", safetensors(b"\xff{]", b""), "", "cannot be read"),
    "deep header": (samples.vllm, "chat/1/checkpoint/m.safetensors", safetensors(b"[" * 90_000, b""), "", "cannot be read"),
}


@pytest.mark.parametrize("case", FILE_MISTAKES, ids=str)
def test_a_wrong_file_is_found_and_named(tmp_path: Path, case: str) -> None:
    build, file, content, where, says = FILE_MISTAKES[case]
    files = build()
    if content is None:
        del files[file]
    else:
        files[file] = content
    result = validate(samples.write(tmp_path, files))
    found = [f for f in result.errors if f.file == (where or file) and says in f.message]
    assert len(found) == 1, "\n".join(map(str, result.findings))


def test_whole_safetensors_are_fine(tmp_path: Path) -> None:
    files = {**samples.vllm(), "chat/1/checkpoint/m.safetensors": safetensors(SAFETENSORS_HEADER, bytes(8))}
    assert validate(samples.write(tmp_path, files)).ok


def test_only_versions_that_would_be_loaded_are_looked_into(tmp_path: Path) -> None:
    files = {**samples.chain(), "first/0/broken.txt": "", "first/0/model.py": "def ("}
    assert validate(samples.write(tmp_path, files)).ok
    (tmp_path / "first/2").mkdir()
    result = validate(tmp_path)
    assert [(f.file, f.message) for f in result.errors] == [("first/2", "has no model.py, which backend 'python' loads")]


def test_a_model_without_config_is_completed_by_triton_and_only_warned_about(tmp_path: Path) -> None:
    files = samples.onnx()
    del files["scorer/config.pbtxt"]
    result = validate(samples.write(tmp_path, files))
    assert result.ok
    assert [f.message for f in result.warnings] == [
        "has no config.pbtxt; Triton makes one up for backend 'onnxruntime', so its tensors cannot be checked"
    ]
