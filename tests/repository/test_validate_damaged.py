"""Damage done by hand to repositories that enginepress made: each is found, and named for what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.engines.tensorrt_llm.record import EngineRecord, write_record
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.validate import validate
from tests.repository import samples

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
}
ENGINES = {"tensorrt_llm": "float16", "llmapi": "bfloat16", "vllm": "bfloat16"}


def made(folder: Path, builder: str) -> Path:
    """Assembled and placed; the engine or checkpoint is empty files of the right names."""
    checkpoint = {
        "tokenizer.json": json.dumps({"version": "1.0"}),
        "config.json": json.dumps(CONFIG),
        "model.safetensors": samples.WEIGHTS,
    }
    samples.write(folder / "checkpoint", checkpoint)
    engine = folder / "checkpoint"
    if builder == "tensorrt_llm":
        engine = samples.write(
            folder / "engine",
            {"config.json": samples.engine_config(tp=1, version="1.2.1"), "rank0.engine": b"engine"},
        )
        limits = {"max_batch_size": 8}
        write_record(engine, EngineRecord("1.2.1", "10.14", "L4", "89", "580.1", "image", None, 1, limits))
    recipe = Recipe.model_validate(
        {
            "name": "llama",
            "source": "file:///checkpoint",
            "engine": {"builder": builder, "precision": ENGINES[builder], "gpu": {"name": "L4"}},
            "stores": ["file:///store"],
        }
    )
    (folder / "unplaced").mkdir()
    assemble(engine=engine, checkpoint=folder / "checkpoint", recipe=recipe, output=folder / "unplaced")
    write_placement(place(folder / "unplaced", 1, str(folder / "placed")), folder / "placed")
    assert validate(folder / "placed").findings == ()
    # Hard links to the inputs: what a test breaks is the repository's own.
    for path in (folder / "placed").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    return folder / "placed"


def errors(repository: Path) -> list[str]:
    return [finding.message for finding in validate(repository).errors]


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    value = load(path.read_text())
    path.write_text(dump(change(value)))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CHECKPOINTS = {"llmapi": "llama/1/model.yaml", "vllm": "llama/1/model.json"}
each_checkpoint = pytest.mark.parametrize("builder", CHECKPOINTS)


@each_checkpoint
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "holds no weights"),
        ("config.json", "has no readable config.json"),
        ("tokenizer.json", "holds no tokenizer"),
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_found(builder: str, name: str, said: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    (repository / "llama/1/checkpoint" / name).unlink()
    assert any(said in message for message in errors(repository))


@each_checkpoint
def test_a_shard_that_the_index_names_and_is_not_there_is_found(builder: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (repository / "llama/1/checkpoint/model.safetensors.index.json").write_text(json.dumps(index))
    assert any("model-00002-of-00002.safetensors" in message for message in errors(repository))


@each_checkpoint
def test_code_in_a_checkpoint_that_is_not_trusted_is_found(builder: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    (repository / "llama/1/checkpoint/modeling.py").write_text("x = 1\n")
    edit(repository / "llama/1/checkpoint/config.json", lambda config: {**config, "auto_map": {"AutoModel": "modeling.M"}})
    said = errors(repository)
    assert any("holds Python code (modeling.py)" in message for message in said)
    assert any("auto_map" in message for message in said)
    edit(repository / CHECKPOINTS[builder], lambda values: {**values, "trust_remote_code": True})
    assert errors(repository) == []


@each_checkpoint
def test_an_argument_that_nobody_knows_is_found(builder: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    edit(repository / CHECKPOINTS[builder], lambda values: {**values, "enable_chunked_prefil": True})
    (finding,) = validate(repository).errors
    assert finding.message.endswith("is not known to have an argument 'enable_chunked_prefil'")
    assert finding.fix == "did you mean 'enable_chunked_prefill'?"


@each_checkpoint
def test_a_name_inside_an_argument_that_nobody_knows_is_found(builder: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    argument = {"llmapi": "torch_compile_config", "vllm": "compilation_config"}[builder]
    edit(repository / CHECKPOINTS[builder], lambda values: {**values, argument: {"no_such": 1}})
    (finding,) = validate(repository).errors
    assert finding.message.endswith(f"{argument} is not known to have 'no_such'")


def test_a_length_above_the_models_is_found(tmp_path: Path) -> None:
    repository = made(tmp_path, "vllm")
    edit(repository / "llama/1/model.json", lambda values: {**values, "max_model_len": 4096})
    assert errors(repository) == ["max_model_len is 4096, but the model was made for 2048 tokens, so vLLM does not load it"]


def test_vllm_on_a_cpu_is_found(tmp_path: Path) -> None:
    repository = made(tmp_path, "vllm")
    replace(repository / "llama/config.pbtxt", "KIND_MODEL", "KIND_CPU")
    assert errors(repository) == ["instance_group has KIND_CPU, but the vLLM backend needs GPUs"]


ENGINE = "llama-engine/1/engine/config.json"


def without(key: str) -> Callable[[Any], Any]:
    return lambda config: {k: v for k, v in config.items() if k != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: {**c, "version": "0.18.2"}, "built by TensorRT-LLM 0.18.2"),
        (lambda c: {**c, "version": "0.9.0"}, "built by TensorRT-LLM 0.9.0"),
        (without("version"), "version is not set"),
        (without("build_config"), "build_config is not set"),
        (lambda c: {**c, "build_config": {**c["build_config"], "max_batch_size": "64"}}, "max_batch_size is '64'"),
        (
            lambda c: {**c, "pretrained_config": {**c["pretrained_config"], "mapping": None}},
            "mapping is not set",
        ),
        (lambda c: {**c, "version": "1.1.0"}, "enginepress.json says TensorRT-LLM 1.2.1, but config.json says 1.1.0"),
    ],
)
def test_an_engines_config_that_is_not_its_own_is_found(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    repository = made(tmp_path, "tensorrt_llm")
    edit(repository / ENGINE, change)
    assert any(said in message for message in errors(repository))


def test_an_engines_record_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    repository = made(tmp_path, "tensorrt_llm")
    (repository / "llama-engine/1/engine/enginepress.json").write_text("{")
    assert any("enginepress.json is no engine record" in message for message in errors(repository))


@pytest.mark.parametrize(
    ("model", "old", "new", "said"),
    [
        ("engine", 'string_value: "0.9"', 'string_value: "9"', "parameter kv_cache_free_gpu_mem_fraction is '9'"),
        (
            "engine",
            "kv_cache_free_gpu_mem_fraction",
            "kv_cache_free_gpu_mem_fracton",
            "reads no parameter",
        ),
        (
            "engine",
            "decoupled: true",
            "decoupled: false",
            "config.pbtxt has streaming true",
        ),
        ("engine", "count: 1", "count: 2", "2 instances of the engine, and all of them take the same GPU's memory"),
    ],
)
def test_an_engines_config_that_was_edited_is_found(model: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    repository = made(tmp_path, "tensorrt_llm")
    replace(repository / f"llama-{model}/config.pbtxt", old, new)
    assert any(said in message for message in errors(repository)), errors(repository)


def test_a_tokenizer_that_was_cut_off_is_found(tmp_path: Path) -> None:
    repository = made(tmp_path, "tensorrt_llm")
    (repository / "llama-preprocessing/1/tokenizer/tokenizer.json").write_text("{")
    assert any("tokenizer.json is damaged or cut off" in message for message in errors(repository))


@pytest.mark.parametrize(
    ("builder", "gone"), [("tensorrt_llm", "llama-preprocessing/1/trt_words.py"), ("llmapi", "llama/1/llm_chat.py")]
)
def test_a_helper_module_that_is_gone_is_found(builder: str, gone: str, tmp_path: Path) -> None:
    repository = made(tmp_path, builder)
    (repository / gone).unlink()
    assert any(f"imports {Path(gone).stem}, but there is no" in message for message in errors(repository))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("kv_cache_free_gpu_mem_fraction", "kv_cache_free_gpu_mem_fracton"), "no parameter"),
        (lambda text: text.replace("count: 1", "count: 2"), "2 instances of the engine"),
    ],
)
def test_in_a_repository_of_somebody_elses_it_is_a_warning(change: Callable[[str], str], said: str, tmp_path: Path) -> None:
    repository = made(tmp_path, "tensorrt_llm")
    engine = tmp_path / "their engine"
    shutil.copytree(repository / "llama-engine/1/engine", engine)
    for path in repository.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace(f"{repository}/./llama-engine/1/engine", str(engine)))
    config = repository / "llama-engine/config.pbtxt"
    config.write_text(change(config.read_text()))
    result = validate(repository)
    assert result.errors == ()
    assert any(said in finding.message for finding in result.warnings)
