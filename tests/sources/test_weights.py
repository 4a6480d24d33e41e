"""Weights on disk: shards, index, and what is often found under their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginepress.errors import SourceError
from enginepress.sources.weights import check_weights
from tests.sources.tiny import INDEX, checkpoint, tensor_file, with_header, write

SHARD = "model-00002-of-00003.safetensors"


def _check(folder: Path) -> None:
    check_weights({p.name: p for p in folder.iterdir()})


def test_a_whole_checkpoint_passes_in_one_file_and_in_shards(tmp_path: Path) -> None:
    for shards in (1, 3):
        _check(write(tmp_path / str(shards), checkpoint(shards=shards)))


def test_a_truncated_shard_is_refused_naming_the_file(tmp_path: Path) -> None:
    files = checkpoint(shards=3)
    folder = write(tmp_path, {**files, SHARD: files[SHARD][:-1]})
    with pytest.raises(SourceError, match="truncated") as caught:
        _check(folder)
    assert caught.value.where == str(folder / SHARD)


def test_an_index_that_names_a_missing_shard_is_refused_naming_both(tmp_path: Path) -> None:
    files = checkpoint(shards=3)
    del files[SHARD]
    with pytest.raises(SourceError, match=SHARD) as caught:
        _check(write(tmp_path, files))
    assert caught.value.where == str(tmp_path / INDEX)


def test_a_shard_without_a_tensor_that_the_index_says_it_has_is_refused(tmp_path: Path) -> None:
    files = checkpoint(shards=3)
    files[SHARD] = tensor_file({"layer.1": 4})
    with pytest.raises(SourceError, match=r"'norm\.1'") as caught:
        _check(write(tmp_path, files))
    assert caught.value.where == str(tmp_path / SHARD)


def test_a_shard_with_a_tensor_that_the_index_gives_to_nobody_or_to_another_shard_is_refused(tmp_path: Path) -> None:
    files = checkpoint(shards=3)
    index = json.loads(files[INDEX])
    del index["weight_map"]["norm.1"]
    with pytest.raises(SourceError, match=r"'norm\.1', which .* does not know") as caught:
        _check(write(tmp_path / "lost", {**files, INDEX: json.dumps(index).encode()}))
    assert caught.value.where == str(tmp_path / "lost" / SHARD)
    index["weight_map"]["norm.1"] = "model-00001-of-00003.safetensors"
    with pytest.raises(SourceError, match=r"'norm\.1', which .* says 'model-00001-of-00003\.safetensors' has"):
        _check(write(tmp_path / "moved", {**files, INDEX: json.dumps(index).encode()}))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no tensor"):
        _check(write(tmp_path, {"model.safetensors": with_header({})}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n <html><body>403", "is a web page"),
        (b'<?xml version="1.0"?><Error>', "is a web page"),
        (b'{"error":"Access denied"}', "is an error message"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"PK\x03\x04rest", "is a PyTorch pickle"),
        (b"\x80\x02}q\0.", "is a Python pickle"),
        (b"\x1f\x8b\x08\0", "is a gzip file"),
    ],
)
def test_what_is_no_safetensors_file_is_called_by_its_name(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        _check(write(tmp_path, {"model.safetensors": content}))
    assert caught.value.where == str(tmp_path / "model.safetensors")
    assert caught.value.fix


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs")])
def test_allowed_pickle_files_are_refused_if_they_are_obviously_something_else(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        _check(write(tmp_path, {"pytorch_model.bin": content}))


def test_allowed_pickle_files_pass_unread(tmp_path: Path) -> None:
    _check(write(tmp_path, {"pytorch_model.bin": b"PK\x03\x04", "pytorch_model-2.bin": b"\x80\x02."}))


def test_an_index_that_lies_about_names_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path, {"secret.safetensors": tensor_file({"a": 1})})
    index = json.dumps({"weight_map": {"a": "../secret.safetensors"}}).encode()
    with pytest.raises(SourceError, match="not a plain relative path"):
        _check(write(tmp_path / "in", {INDEX: index}))


@pytest.mark.parametrize("name", ["tokenizer.model", "generation_config.json", "LICENSE"])
def test_a_git_lfs_pointer_under_any_name_is_called_one(name: str, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 500000\n"
    folder = write(tmp_path, {**checkpoint(), name: pointer})
    with pytest.raises(SourceError, match="is a git-lfs pointer") as caught:
        _check(folder)
    assert caught.value.where == str(folder / name)
    assert "git lfs pull" in str(caught.value.fix)
