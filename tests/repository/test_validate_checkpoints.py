"""Repositories that serve a checkpoint: what llmapi's model.yaml and vLLM's model.json may say, and TensorRT-LLM's instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.repository.validate import validate
from tests.repository import samples


def placed(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Written with a root in front of paths, so that nothing is left to say about them."""
    root = folder / "models"
    return samples.write(
        root, {n: c.replace("./chat/", f"{root}/./chat/") if isinstance(c, str) else c for n, c in files.items()}
    )


def messages(folder: Path, files: dict[str, str | bytes]) -> list[str]:
    return [finding.message for finding in validate(placed(folder, files)).errors]


VLLM_CONFIG = (
    'backend: "vllm"\nmodel_transaction_policy { decoupled: true }\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
    + samples.tensor("input", "text_input", "STRING", [1])
    + samples.tensor("output", "text_output", "STRING", [-1])
)


def vllm(arguments: dict[str, Any], config: str = VLLM_CONFIG) -> dict[str, str | bytes]:
    files = samples.vllm()
    files["chat/config.pbtxt"] = config
    files["chat/1/model.json"] = json.dumps({"model": "./chat/1/checkpoint", **arguments})
    return files


def llmapi(arguments: dict[str, Any], *, decoupled: bool = False) -> dict[str, str | bytes]:
    files = samples.llmapi()
    files["chat/config.pbtxt"] = (
        str(files["chat/config.pbtxt"]) + f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}\n"
    )
    files["chat/1/model.yaml"] = yaml.safe_dump({"model": "./chat/1/checkpoint", **arguments})
    return files


def test_good_ones_have_nothing_said_about_them(tmp_path: Path) -> None:
    assert messages(tmp_path / "a", vllm({"tensor_parallel_size": 2, "gpu_memory_utilization": 0.9})) == []
    assert messages(tmp_path / "b", llmapi({"triton_config": {"decoupled": True, "max_batch_size": 0}}, decoupled=True)) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0"),
        ({"pipeline_parallel_size": "2"}, "pipeline_parallel_size is '2'"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5"),
        ({"gpu_memory_utilization": "90%"}, "gpu_memory_utilization is '90%'"),
        ({"quantization": "${quantization}"}, "quantization holds a placeholder"),
    ],
)
def test_impossible_arguments_are_found_in_both(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, files in (("vllm", vllm(arguments)), ("llmapi", llmapi(arguments))):
        assert any(said in message for message in messages(tmp_path / name, files)), name


def test_a_share_inside_the_kv_cache_config_is_looked_at_too(tmp_path: Path) -> None:
    found = messages(tmp_path, llmapi({"kv_cache_config": {"free_gpu_memory_fraction": 90}}))
    assert found == ["free_gpu_memory_fraction is 90"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"decoupled": True}, "triton_config.decoupled is true, but chat/config.pbtxt says false"),
        ({"max_batch_size": 8}, "triton_config.max_batch_size is 8, but chat/config.pbtxt says 0"),
    ],
)
def test_triton_config_and_config_must_say_the_same(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert messages(tmp_path, llmapi({"triton_config": said})) == [message]


def test_vllm_must_be_decoupled(tmp_path: Path) -> None:
    found = messages(tmp_path, vllm({}, VLLM_CONFIG.replace("decoupled: true", "decoupled: false")))
    assert found == ["model_transaction_policy.decoupled is false, and the vLLM backend works decoupled only"]


def test_vllm_on_several_gpus_needs_kind_model(tmp_path: Path) -> None:
    files = vllm({"tensor_parallel_size": 2}, VLLM_CONFIG.replace("KIND_MODEL", "KIND_GPU"))
    assert messages(tmp_path, files) == ["instance_group has KIND_GPU, but chat/1/model.json spreads the model over 2 GPUs"]


# ------------------------------------------------------------------------------------------------------------------
# TensorRT-LLM
# ------------------------------------------------------------------------------------------------------------------


def trt(folder: Path, old: str, new: str) -> list[str]:
    root = folder / "models"
    files = samples.tensorrt_llm(root=f"{root}/")
    config = str(files["llama-engine/config.pbtxt"])
    assert old in config
    files["llama-engine/config.pbtxt"] = config.replace(old, new)
    samples.write(root, files)
    return [finding.message for finding in validate(root).errors]


CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("instance_group [ { count: 2 kind: KIND_CPU } ]", "2 instances of an engine of 2 ranks on the same GPUs"),
        ("instance_group [ { count: 1 kind: KIND_GPU } ]", "KIND_GPU, so Triton would start an instance on every GPU"),
    ],
)
def test_instances_that_the_backend_cannot_have_are_found(new: str, said: str, tmp_path: Path) -> None:
    assert any(said in message for message in trt(tmp_path, CPU, new))


def test_a_set_of_gpus_has_one_for_each_rank(tmp_path: Path) -> None:
    found = trt(tmp_path, samples.parameter("gpu_device_ids", ""), samples.parameter("gpu_device_ids", "0"))
    assert found == ["parameter gpu_device_ids: '0' names 1 GPUs, but the engine has 2 ranks"]
