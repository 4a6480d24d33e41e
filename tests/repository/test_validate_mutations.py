"""One mistake at a time in a repository that is right: each is found, named with its file and its field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.repository.validate import validate
from tests.repository import samples
from tests.repository.mistakes import CHAIN, GENAI, Files, Mistake, check_found, edit, trt

CONFIG_MISTAKES = [
    edit(samples.onnx, "scorer/config.pbtxt", 'name: "scorer"', 'name: "other"', "name is 'other', but the folder is 'scorer'"),
    edit(samples.onnx, "scorer/config.pbtxt", "max_batch_size", "max_batch", "has no field 'max_batch'"),
    edit(samples.onnx, "scorer/config.pbtxt", "TYPE_FP32", "TYPE_FLOAT", "has no value 'TYPE_FLOAT'"),
    edit(samples.onnx, "scorer/config.pbtxt", "max_batch_size: 8", "max_batch_size: ${size}", "${size} was never filled"),
    edit(samples.onnx, "scorer/config.pbtxt", "max_batch_size: 8", "max_batch_size: -8", "max_batch_size is -8"),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "data_type: TYPE_FP32 dims: [ 16 ]",
        "dims: [ 16 ]",
        "input 'features': data_type is not set",
    ),
    edit(samples.onnx, "scorer/config.pbtxt", "dims: [ 16 ]", "", "input 'features': dims is not set"),
    edit(samples.onnx, "scorer/config.pbtxt", "dims: [ 16 ]", "dims: [ 0 ]", "input 'features': dims has 0"),
    edit(samples.onnx, "scorer/config.pbtxt", "dims: [ 16 ]", "dims: [ -2 ]", "input 'features': dims has -2"),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dims: [ 16 ]",
        "dims: [ 16 ] reshape { shape: [ 4, 5 ] }",
        "input 'features': dims [16] and reshape [4, 5] hold different numbers of values",
    ),
    edit(samples.onnx, "scorer/config.pbtxt", 'name: "features"', "", "input number 1: name is not set"),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        'input { name: "features" data_type: TYPE_INT32 dims: 1 } dynamic_batching',
        "input 'features' is declared twice, in different ways",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        samples.tensor("output", "score", "FP32", [1]) + "dynamic_batching",
        "output 'score' is declared twice",
        severity="warning",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "preferred_batch_size: [ 4, 8 ]",
        "preferred_batch_size: [ 4, 16 ]",
        "preferred_batch_size has 16, but max_batch_size is 8",
    ),
    edit(samples.onnx, "scorer/config.pbtxt", 'platform: "onnxruntime_onnx"', 'platform: "onnx"', "platform is 'onnx'"),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        'platform: "onnxruntime_onnx"',
        'backend: "onnx"',
        "backend 'onnx'",
        severity="warning",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        'platform: "onnxruntime_onnx"',
        'platform: "tensorrt_plan" backend: "onnxruntime"',
        "platform 'tensorrt_plan' does not belong to backend 'onnxruntime'",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        "version_policy { specific { versions: [ 1, 3 ] } } dynamic_batching",
        "version_policy.specific names version 3, but the folder has 1",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        "version_policy { latest { } } dynamic_batching",
        "version_policy.latest.num_versions is 0",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        "instance_group { kind: KIND_CPU gpus: [ 0 ] } dynamic_batching",
        "kind is KIND_CPU, but gpus names [0]",
    ),
    edit(
        samples.onnx,
        "scorer/config.pbtxt",
        "dynamic_batching",
        "instance_group { kind: KIND_GPU gpus: [ 1, 1 ] } dynamic_batching",
        "gpus [1, 1] has a wrong or repeated number",
    ),
    edit(
        samples.genai,
        "tiny/config.pbtxt",
        "decoupled: true }",
        "decoupled: true } response_cache { enable: true }",
        "response_cache.enable and model_transaction_policy.decoupled exclude each other",
    ),
    edit(
        samples.genai,
        "tiny/config.pbtxt",
        "dims: [ 1 ] optional",
        "dims: [ 1 ] reshape { } optional",
        "reshape to an empty shape needs batching",
    ),
    edit(samples.vllm, "chat/config.pbtxt", 'backend: "vllm"', "", "sets neither backend nor platform"),
]

BACKEND_MISTAKES = [
    edit(samples.chain, "first/1/model.py", "class TritonPythonModel", "class Model", "defines no class TritonPythonModel"),
    edit(samples.chain, "first/1/model.py", "def execute(", "def execute((", "is no valid Python"),
    edit(
        samples.chain,
        "second/config.pbtxt",
        "instance_group",
        samples.parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "maybe") + "instance_group",
        "parameter FORCE_CPU_ONLY_INPUT_TENSORS is 'maybe'",
    ),
    edit(
        samples.chain,
        "second/config.pbtxt",
        "instance_group",
        samples.parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz") + "instance_group",
        "EXECUTION_ENV_PATH: $$TRITON_MODEL_DIRECTORY/env.tar.gz is not there",
    ),
    edit(
        samples.chain,
        "second/config.pbtxt",
        "instance_group",
        samples.parameter("EXECUTION_ENV_PATH", "/opt/nowhere/env.tar.gz") + "instance_group",
        "EXECUTION_ENV_PATH: /opt/nowhere/env.tar.gz is not there on this machine",
        severity="warning",
    ),
    edit(samples.genai, GENAI, '"model.onnx"', '"other.onnx"', "model.decoder.filename is 'other.onnx', which is not beside it"),
    edit(
        samples.genai,
        GENAI,
        '"max_batch_size": 8',
        '"max_batch_size": 2',
        "parameter max_batch_size is 8, but the engine takes 2",
        where="tiny/config.pbtxt",
    ),
    edit(
        samples.genai,
        GENAI,
        '"static_batching"',
        '"other"',
        "parameter max_batch_size is 8, but the engine takes 4",
        where="tiny/config.pbtxt",
    ),
    edit(
        samples.genai,
        "tiny/config.pbtxt",
        '"max_sequence_length" value: { string_value: ""',
        '"max_sequence_length" value: { string_value: "4096"',
        "parameter max_sequence_length is 4096, but the model was made for 1024",
    ),
    edit(samples.genai, GENAI, "{", "[", "is not a readable mapping"),
    edit(samples.vllm, "chat/1/model.json", '"model"', '"modle"', "model is not set"),
    edit(samples.vllm, "chat/1/model.json", "{", "", "is not a readable mapping"),
    edit(
        samples.vllm,
        "chat/1/model.json",
        "./chat/1/checkpoint",
        "./chat/1/elsewhere",
        "model: ./chat/1/elsewhere is not in the repository",
    ),
    edit(
        samples.vllm,
        "chat/1/model.json",
        "./chat/1/checkpoint",
        "meta-llama/Llama-3.1-8B",
        "model: 'meta-llama/Llama-3.1-8B' reads like a name on a model hub",
        severity="warning",
    ),
    edit(samples.llmapi, "chat/1/model.yaml", "model: ./", "model: [", "is not a readable mapping"),
    edit(
        samples.llmapi,
        "chat/1/model.yaml",
        "model: ./chat/1/checkpoint",
        "model: /models/llama",
        "model: /models/llama is not there on this machine",
        severity="warning",
    ),
]

ENSEMBLE_MISTAKES = [
    edit(samples.chain, CHAIN, 'model_name: "second"', 'model_name: "fourth"', "there is no model 'fourth' in this repository"),
    edit(samples.chain, CHAIN, 'model_name: "second"', 'model_name: "chain"', "the ensemble is a step of itself"),
    edit(samples.chain, CHAIN, 'model_name: "second"', "", "step 2: model_name is not set"),
    edit(samples.chain, CHAIN, 'input_map { key: "x" value: "a" }', "", "step 2 (second): input_map is not set"),
    edit(
        samples.chain,
        CHAIN,
        'model_version: -1 input_map { key: "x" value: "a" }',
        'model_version: 4 input_map { key: "x" value: "a" }',
        "model_version is 4, but of 'second' are loaded: 1",
    ),
    edit(
        samples.chain,
        CHAIN,
        'key: "x" value: "b"',
        'key: "x" value: "q"',
        "ensemble tensor 'q', read by step 3 (third), is written by no step",
    ),
    edit(
        samples.chain,
        CHAIN,
        'key: "y" value: "a"',
        'key: "y" value: "b"',
        "ensemble tensor 'b' is written by step 1 and by step 2",
    ),
    edit(
        samples.chain,
        CHAIN,
        'input_map { key: "x" value: "x" }',
        'input_map { key: "x" value: "b" }',
        "steps wait for each other: ",
    ),
    edit(
        samples.chain,
        CHAIN,
        'input_map { key: "x" value: "x" }',
        'input_map { key: "x" value: "b" }',
        "input 'x' is used by no step",
    ),
    edit(samples.chain, CHAIN, 'key: "y" value: "y"', 'key: "y" value: "z"', "output 'y' is written by no step"),
    edit(
        samples.chain,
        CHAIN,
        'key: "y" value: "y"',
        'key: "y" value: "z"',
        "ensemble tensor 'z', written by step 3, is read by nobody",
    ),
    edit(samples.chain, CHAIN, 'key: "y" value: "y"', 'key: "y" value: "x"', "input 'x' is also written by step 3"),
    edit(samples.chain, CHAIN, 'platform: "ensemble"', "", "has ensemble_scheduling, but platform is not 'ensemble'"),
    edit(
        samples.chain,
        CHAIN,
        'platform: "ensemble"',
        'platform: "ensemble" backend: "python"',
        "backend is 'python'; an ensemble has none",
    ),
    edit(samples.chain, CHAIN, "max_batch_size: 4", "max_batch_size: 4 instance_group { kind: KIND_CPU }", "sets instance_group"),
    edit(samples.chain, CHAIN, "max_batch_size: 4", "max_batch_size: 4 optimization { }", "sets optimization"),
    edit(samples.chain, CHAIN, "max_batch_size: 4", "max_batch_size: 8", "max_batch_size is 8, but step 1 (first) takes 4"),
    edit(
        samples.chain,
        CHAIN,
        "max_batch_size: 4",
        "max_batch_size: 4 model_transaction_policy { decoupled: true }",
        "no step is decoupled",
        severity="warning",
    ),
    edit(
        samples.chain,
        CHAIN,
        "TYPE_STRING",
        "TYPE_INT32",
        "ensemble tensor 'x': data types differ: TYPE_INT32 [1] in input of 'chain'",
    ),
    edit(
        samples.chain, "second/config.pbtxt", "dims: [ 1 ]", "dims: [ 1, 1 ]", "ensemble tensor 'a': shapes differ", where=CHAIN
    ),
    edit(
        samples.chain,
        "second/config.pbtxt",
        'name: "x"',
        'name: "input"',
        "input_map names 'x', which is no input of 'second'",
        where=CHAIN,
    ),
]

MISTAKES = CONFIG_MISTAKES + BACKEND_MISTAKES + ENSEMBLE_MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.says[:70])
def test_a_mistake_is_found_and_names_its_file_and_field(tmp_path: Path, mistake: Mistake) -> None:
    check_found(tmp_path, mistake)


@pytest.mark.parametrize(
    "build", [samples.chain, samples.onnx, samples.genai, trt, samples.vllm, samples.llmapi], ids=lambda f: f.__name__
)
def test_without_a_mistake_nothing_is_found(tmp_path: Path, build: Callable[[], Files]) -> None:
    result = validate(samples.write(tmp_path, build()))
    assert [f for f in result.findings if "has no root yet" not in f.message] == []


def test_an_ensemble_that_joins_a_stream_with_what_is_no_stream_is_refused(tmp_path: Path) -> None:
    files = samples.chain()
    files["first/config.pbtxt"] = str(files["first/config.pbtxt"]) + "model_transaction_policy { decoupled: true }"
    joined = samples.tensor("input", "z", "STRING", [1])
    files["third/config.pbtxt"] = str(files["third/config.pbtxt"]) + joined
    files["chain/config.pbtxt"] = samples.CHAIN_ENSEMBLE.replace(
        'input_map { key: "x" value: "b" }', 'input_map { key: "x" value: "b" } input_map { key: "z" value: "x" }'
    )
    (found,) = validate(samples.write(tmp_path, files)).errors
    assert "step 3 (third) gets inputs from no decoupled step and step 1 (first)" in found.message


def test_ensembles_that_contain_each_other_are_refused(tmp_path: Path) -> None:
    files = samples.chain()
    back = samples.step("chain", {"x": "x"}, {"y": "y"})
    head = samples.CHAIN_ENSEMBLE.split("ensemble_scheduling")[0].replace('"chain"', '"second"')
    files["second/config.pbtxt"] = head + "ensemble_scheduling {\n" + back + "}\n"
    result = validate(samples.write(tmp_path, files))
    assert [f.message for f in result.errors] == ["ensembles contain each other: chain -> second -> chain"]


def test_wiring_to_a_model_that_declares_no_tensors_cannot_be_judged(tmp_path: Path) -> None:
    files = {**samples.chain(), "second/config.pbtxt": 'backend: "python"\nmax_batch_size: 4\n'}
    assert validate(samples.write(tmp_path, files)).findings == ()
