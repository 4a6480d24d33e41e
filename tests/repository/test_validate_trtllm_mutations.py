"""One mistake at a time in a repository of the C++ tensorrtllm backend: each is found, named with its file and its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository import samples
from tests.repository.mistakes import BLS, ENGINE, ENSEMBLE, POST, PRE, RECORD, Mistake, check_found, edit, trt

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


@pytest.mark.parametrize("mistake", TENSORRT_LLM_MISTAKES, ids=lambda m: m.says[:70])
def test_a_mistake_is_found_and_names_its_file_and_field(tmp_path: Path, mistake: Mistake) -> None:
    check_found(tmp_path, mistake)
