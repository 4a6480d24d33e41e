"""One mistake at a time in a repository that is right: each is found, named with its file and its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginepress.repository.validate import validate
from tests.repository import samples

Files = dict[str, str | bytes]


@dataclass(frozen=True)
class Mistake:
    """A change to a good repository, and what must be said about it."""

    build: Callable[[], Files]
    file: str
    old: str
    new: str
    where: str
    says: str
    severity: str = "error"


def edit(
    build: Callable[[], Files], file: str, old: str, new: str, says: str, *, where: str = "", severity: str = "error"
) -> Mistake:
    """`old` becomes `new` in `file`; the finding is expected there, or in `where`."""
    return Mistake(build, file, old, new, where or file, says, severity)


def trt() -> Files:
    return samples.tensorrt_llm(root="")


ENSEMBLE = "llama/config.pbtxt"
PRE = "llama-preprocessing/config.pbtxt"
ENGINE = "llama-engine/config.pbtxt"
POST = "llama-postprocessing/config.pbtxt"
BLS = "llama-bls/config.pbtxt"
RECORD = "llama-engine/1/engine/config.json"
GENAI = "tiny/1/engine/genai_config.json"
CHAIN = "chain/config.pbtxt"

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

TENSORRT_LLM_MISTAKES = [
    edit(trt, ENGINE, "max_batch_size: 8", "max_batch_size: 32", "max_batch_size is 32, but the engine was built for 16"),
    edit(trt, RECORD, '"tp_size": 2', '"tp_size": 4', "world_size is 2, but TP 4 x PP 1 is 4", where=ENGINE),
    edit(
        trt,
        RECORD,
        '"world_size": 2, "tp_size": 2',
        '"world_size": 4, "tp_size": 4',
        "has 2 of 4 ranks (TP 4 x PP 1); missing: rank2.engine, rank3.engine",
        where=ENGINE,
    ),
    edit(
        trt,
        RECORD,
        '"world_size": 2, "tp_size": 2',
        '"world_size": 1, "tp_size": 1',
        "has rank1.engine, more than the 1 ranks of TP 1 x PP 1",
        where=ENGINE,
    ),
    edit(trt, RECORD, '"world_size": 2', '"world_size": 1000000000000', "which no server has", where=ENGINE),
    edit(trt, RECORD, "{", "", "has no readable config.json, so it is no engine", where=ENGINE),
    edit(
        trt,
        ENGINE,
        "./llama-engine/1/engine",
        "./llama-engine/1/lost",
        "gpt_model_path: ./llama-engine/1/lost is not in the repository",
    ),
    edit(trt, ENGINE, "./llama-engine/1/engine", "", "sets neither of the parameters gpt_model_path and encoder_model_path"),
    edit(
        trt,
        ENGINE,
        "./llama-engine/1/engine",
        "/models/engine",
        "gpt_model_path: /models/engine is not there on this machine",
        severity="warning",
    ),
    edit(
        trt,
        ENGINE,
        "./llama-engine/1/engine",
        "engines/1/gpu",
        "gpt_model_path: 'engines/1/gpu' is relative to the server's working folder",
        severity="warning",
    ),
    edit(trt, ENGINE, "inflight_fused_batching", "inflight", "parameter gpt_model_type is 'inflight'"),
    edit(
        trt,
        ENGINE,
        "guaranteed_no_evict",
        "guaranteed_completion",
        "parameter batch_scheduler_policy is 'guaranteed_completion'",
        severity="warning",
    ),
    edit(
        trt,
        ENGINE,
        'value: { string_value: "no" }',
        'value: { string_value: "false" }',
        "FORCE_CPU_ONLY_INPUT_TENSORS is 'false'",
    ),
    edit(
        trt,
        ENGINE,
        '"gpu_device_ids" value: { string_value: ""',
        '"gpu_device_ids" value: { string_value: "0,1;2,3"',
        "gpu_device_ids names 2 sets of GPUs, but instance_group has 1 instances",
    ),
    edit(
        trt,
        ENGINE,
        '"max_beam_width" value: { string_value: "1"',
        '"max_beam_width" value: { string_value: "4"',
        "parameter max_beam_width is 4, but the engine was built for 1",
    ),
    edit(
        trt,
        POST,
        "./llama-preprocessing/1/tokenizer",
        "./llama-engine/1/engine",
        "tokenizer_dir: ./llama-engine/1/engine holds no tokenizer",
    ),
    edit(
        trt,
        PRE,
        "./llama-preprocessing/1/tokenizer",
        "meta-llama/Llama-3.1-8B",
        "tokenizer_dir: 'meta-llama/Llama-3.1-8B' reads like a name on a model hub",
        severity="warning",
    ),
    edit(trt, BLS, '"llama-engine"', '"tensorrt_llm"', "tensorrt_llm_model_name is 'tensorrt_llm', but there is no such model"),
    edit(trt, BLS, "decoupled: false", "decoupled: true", "decoupled is true, but false in 'llama-engine'"),
    edit(
        trt,
        ENGINE,
        samples.tensor("input", "prompt_embedding_table", "FP16", [-1, -1], "optional", "ragged"),
        samples.tensor("input", "prompt_embedding_table", "FP32", [-1, -1], "optional", "ragged"),
        "ensemble tensor 'prompt_embedding_table': data types differ: TYPE_FP16",
        where=ENSEMBLE,
    ),
    edit(
        trt,
        ENGINE,
        samples.tensor("input", "bad_words_list", "INT32", [2, -1], "optional", "ragged"),
        samples.tensor("input", "bad_words_list", "INT32", [-1], "optional", "ragged"),
        "ensemble tensor '_BAD_WORDS_IDS': shapes differ",
        where=ENSEMBLE,
    ),
    edit(
        trt, ENSEMBLE, "max_batch_size: 8", "max_batch_size: 16", "max_batch_size is 16, but step 1 (llama-preprocessing) takes 8"
    ),
    edit(
        trt,
        ENSEMBLE,
        'input_map { key: "input_lengths" value: "_REQUEST_INPUT_LEN" }',
        "",
        "step 2 (llama-engine): input 'input_lengths' of 'llama-engine' is not fed",
    ),
    edit(trt, ENSEMBLE, 'key: "runtime_top_k"', 'key: "top_k"', "input_map names 'top_k', which is no input of 'llama-engine'"),
    edit(
        trt,
        ENSEMBLE,
        'key: "OUTPUT" value',
        'key: "TEXT" value',
        "output_map names 'TEXT', which is no output of 'llama-postprocessing'",
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

MISTAKES = CONFIG_MISTAKES + BACKEND_MISTAKES + TENSORRT_LLM_MISTAKES + ENSEMBLE_MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.says[:70])
def test_a_mistake_is_found_and_names_its_file_and_field(tmp_path: Path, mistake: Mistake) -> None:
    files = mistake.build()
    before = str(files[mistake.file])
    assert mistake.old in before
    samples.write(tmp_path, {**files, mistake.file: before.replace(mistake.old, mistake.new, 1)})
    result = validate(tmp_path)
    found = [f for f in result.findings if f.file == mistake.where and mistake.says in f.message]
    assert [f.severity for f in found] == [mistake.severity], "\n".join(map(str, result.findings))
    assert result.ok == (mistake.severity != "error")
    json.dumps(result.to_json())


@pytest.mark.parametrize(
    "build", [samples.chain, samples.onnx, samples.genai, trt, samples.vllm, samples.llmapi], ids=lambda f: f.__name__
)
def test_without_a_mistake_nothing_is_found(tmp_path: Path, build: Callable[[], Files]) -> None:
    result = validate(samples.write(tmp_path, build()))
    assert [f for f in result.findings if "has no root yet" not in f.message] == []


# ------------------------------------------------------------------------------------------------------------------
# Files and folders
# ------------------------------------------------------------------------------------------------------------------

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
