"""What bad input gets from the command line: words that name it, the right exit status, no traceback, nothing half-made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.run.recipes import run, write_recipe


def _copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "checkpoint"))


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    (folder / "model.safetensors").write_text(text)


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _escaping_index(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "../../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _link_out(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(folder.parent / "outside.safetensors")
    path.symlink_to("../outside.safetensors")


def _unknown_architecture(folder: Path) -> None:
    _change_config(folder, architectures=["MartianForCausalLM"], model_type="martian")


def _quantized(folder: Path) -> None:
    _change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def _own_code(folder: Path) -> None:
    _change_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('must never run')")


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "without weights": (_no_weights, ["safetensors"]),
    "with pickles only": (_pickle_only, ["pytorch_model.bin", "allow_pickle"]),
    "without tokenizer": (_no_tokenizer, ["tokenizer.json"]),
    "with a truncated shard": (_truncated, ["model.safetensors"]),
    "with an LFS pointer": (_pointer, ["model.safetensors", "LFS"]),
    "with an index naming a missing shard": (_missing_shard, ["model-00002-of-00002.safetensors"]),
    "with an index that leaves its folder": (_escaping_index, ["outside.safetensors"]),
    "with a link out of its folder": (_link_out, ["model.safetensors"]),
    "of an unknown architecture": (_unknown_architecture, ["MartianForCausalLM"]),
    "that is quantized already": (_quantized, ["gptq"]),
    "with code of its own": (_own_code, ["auto_map", "trust_remote_code"]),
    "with a broken config": (_broken_config, ["config.json"]),
}


@pytest.mark.parametrize(("spoil", "words"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint(tmp_path: Path, checkpoint: Path, spoil: Callable[[Path], None], words: list[str]) -> None:
    folder = _copy(checkpoint, tmp_path)
    spoil(folder)
    done = run(write_recipe(tmp_path / "site", folder))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "site" / "store").exists()
    for kind in ("engines", "repositories", "checkpoints"):
        assert not (tmp_path / "site" / "workspace" / kind).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": {"builder": "tensorrt"}}, ["engine.builder", "tensorrt", "tensorrt_llm"]),
        ({"engine": {"builder": "vllm", "precision": "fp8"}}, ["fp8", "not quantized", "llmapi"]),
        ({"engine": {"precision": "fp8"}}, ["fp8"]),
        ({"engine": {"limits": {"max_sequence_length": 1_000_000}}}, ["max_sequence_length"]),
        ({"source": "file:///nowhere/at/all"}, ["/nowhere/at/all"]),
        ({"source": "s3://bucket/model"}, ["s3://"]),
        ({"stores": ["s3://bucket//models"]}, ["s3://"]),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_a_recipe(tmp_path: Path, checkpoint: Path, changes: dict[str, Any], words: list[str]) -> None:
    done = run(write_recipe(tmp_path, checkpoint, **changes))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_reference_of_another_revision_is_refused_before_anything_is_built(tmp_path: Path, checkpoint: Path) -> None:
    reference = {"format": 1, "revision": "0" * 64, "source": "x", "made_with": {}, "answers": []}
    reference["answers"] = [{"text": "Hello", "messages": None, "max_tokens": 2, "tokens": [5], "answer": "x"}]
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    checks = {"prompts": [{"text": "Hello", "max_tokens": 2}], "reference": "reference.json"}
    done = run(write_recipe(tmp_path, checkpoint, checks=checks))
    assert done.returncode == 2
    assert "another revision" in done.stderr
    assert "enginepress reference" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="root can make a file system that is full, or read-only")
@pytest.mark.root
@pytest.mark.parametrize("options", ["size=300k", "ro"], ids=["full", "read-only"])
@pytest.mark.parametrize("place", ["workspace", "store"])
def test_a_place(tmp_path: Path, checkpoint: Path, place: str, options: str) -> None:
    import subprocess

    folder = tmp_path / "site" / place
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        done = run(write_recipe(tmp_path / "site", checkpoint))
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert str(folder) in done.stderr
        assert "space" in done.stderr or "read-only" in done.stderr.lower()
        if options == "ro":
            assert not (tmp_path / "site" / "workspace" / "engines").exists(), "told before anything is built"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_an_unwritable_workspace_is_named(tmp_path: Path, checkpoint: Path) -> None:
    recipe = write_recipe(tmp_path / "site", checkpoint)
    (tmp_path / "site" / "workspace").write_text("a file, not a folder")
    done = run(recipe)
    assert done.returncode == 1
    assert "workspace" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["run", "a", "b"], ["promote", "x"], ["gate", "nothing.yaml"]], ids=" ".join
)
def test_a_wrong_command_line_is_explained(arguments: list[str]) -> None:
    from tests.run.recipes import enginepress

    done = enginepress(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr
