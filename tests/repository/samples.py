"""Model repositories for tests: written out plainly, as a user or upstream would, so that tests can break one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

WEIGHTS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file without tensors."""

PYTHON_MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]))
        return responses
"""


def tensor(kind: str, name: str, data_type: str, dims: Sequence[int], *flags: str) -> str:
    """One input or output. Flags: optional, ragged, scalar (reshape to [])."""
    extra = {"optional": "optional: true", "ragged": "allow_ragged_batch: true", "scalar": "reshape: { shape: [ ] }"}
    fields = [f'name: "{name}"', f"data_type: TYPE_{data_type}", f"dims: [ {', '.join(map(str, dims))} ]"]
    return f"{kind} [ {{ {' '.join(fields + [extra[flag] for flag in flags])} }} ]\n"


def parameter(key: str, value: str) -> str:
    return f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


def step(model: str, inputs: dict[str, str], outputs: dict[str, str], version: int = -1) -> str:
    maps = "".join(f'input_map {{ key: "{k}" value: "{v}" }} ' for k, v in inputs.items())
    maps += "".join(f'output_map {{ key: "{k}" value: "{v}" }} ' for k, v in outputs.items())
    return f'step [ {{ model_name: "{model}" model_version: {version} {maps}}} ]\n'


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


# ------------------------------------------------------------------------------------------------------------------
# Three python models behind an ensemble
# ------------------------------------------------------------------------------------------------------------------


def python_config(name: str, *, batch: int = 4, data_type: str = "STRING") -> str:
    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch}\n'
        + tensor("input", "x", data_type, [1])
        + tensor("output", "y", data_type, [1])
        + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )


CHAIN_ENSEMBLE = (
    'name: "chain"\nplatform: "ensemble"\nmax_batch_size: 4\n'
    + tensor("input", "x", "STRING", [1])
    + tensor("output", "y", "STRING", [1])
    + "ensemble_scheduling {\n"
    + step("first", {"x": "x"}, {"y": "a"})
    + step("second", {"x": "a"}, {"y": "b"})
    + step("third", {"x": "b"}, {"y": "y"})
    + "}\n"
)


def chain(version: str = "1") -> dict[str, str | bytes]:
    """first -> second -> third behind the ensemble `chain`."""
    files: dict[str, str | bytes] = {"chain/config.pbtxt": CHAIN_ENSEMBLE, f"chain/{version}/.keep": ""}
    for name in ("first", "second", "third"):
        files[f"{name}/config.pbtxt"] = python_config(name)
        files[f"{name}/{version}/model.py"] = PYTHON_MODEL
    return files


# ------------------------------------------------------------------------------------------------------------------
# One model of the onnxruntime backend
# ------------------------------------------------------------------------------------------------------------------


def onnx(version: str = "1") -> dict[str, str | bytes]:
    config = (
        'name: "scorer"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
        + tensor("input", "features", "FP32", [16])
        + tensor("output", "score", "FP32", [1])
        + "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }\n"
    )
    return {"scorer/config.pbtxt": config, f"scorer/{version}/model.onnx": b"\x08\x08not really a graph"}


# ------------------------------------------------------------------------------------------------------------------
# What the onnxruntime builder's template makes
# ------------------------------------------------------------------------------------------------------------------


def genai(version: str = "1", name: str = "tiny") -> dict[str, str | bytes]:
    config = (
        f'name: "{name}"\nbackend: "python"\n'
        + tensor("input", "text_input", "STRING", [1], "optional")
        + tensor("input", "max_tokens", "INT32", [1], "optional")
        + tensor("output", "text_output", "STRING", [1])
        + "model_transaction_policy { decoupled: true }\ninstance_group { kind: KIND_CPU count: 1 }\n"
        + parameter("max_batch_size", "8")
        + parameter("max_sequence_length", "")
    )
    engine = {
        "engine": {"static_batching": {"max_batch_size": 8}},
        "model": {"context_length": 1024, "decoder": {"filename": "model.onnx"}},
    }
    at = f"{name}/{version}"
    return {
        f"{name}/config.pbtxt": config,
        f"{at}/model.py": PYTHON_MODEL,
        f"{at}/engine/genai_config.json": json.dumps(engine),
        f"{at}/engine/model.onnx": b"\x08\x08graph",
        f"{at}/engine/model.onnx.data": b"weights" * 100,
        f"{at}/tokenizer/tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "BPE"}}),
    }


# ------------------------------------------------------------------------------------------------------------------
# TensorRT-LLM: ensemble, preprocessing, engine, postprocessing, BLS, with the tensors of release 0.19
# ------------------------------------------------------------------------------------------------------------------

_SAMPLING = {
    "end_id": ("INT32", "end_id"),
    "pad_id": ("INT32", "pad_id"),
    "top_k": ("INT32", "runtime_top_k"),
    "top_p": ("FP32", "runtime_top_p"),
    "temperature": ("FP32", "temperature"),
    "length_penalty": ("FP32", "len_penalty"),
    "repetition_penalty": ("FP32", "repetition_penalty"),
    "presence_penalty": ("FP32", "presence_penalty"),
    "frequency_penalty": ("FP32", "frequency_penalty"),
    "min_tokens": ("INT32", "min_tokens"),
    "seed": ("UINT64", "seed"),
    "beam_width": ("INT32", "beam_width"),
    "num_return_sequences": ("INT32", "num_return_sequences"),
    "prompt_vocab_size": ("INT32", "prompt_vocab_size"),
    "lora_task_id": ("UINT64", "lora_task_id"),
    "return_log_probs": ("BOOL", "return_log_probs"),
    "return_context_logits": ("BOOL", "return_context_logits"),
    "return_generation_logits": ("BOOL", "return_generation_logits"),
    "return_perf_metrics": ("BOOL", "return_perf_metrics"),
    "exclude_input_in_output": ("BOOL", "exclude_input_in_output"),
    "stream": ("BOOL", "streaming"),
}
"""Ensemble input -> its type and the engine model's input."""

_ENGINE_ONLY = {
    **dict.fromkeys(("encoder_output_lengths", "decoder_input_lengths", "runtime_top_p_reset_ids"), "INT32"),
    **dict.fromkeys(("draft_acceptance_threshold", "runtime_top_p_min", "runtime_top_p_decay"), "FP32"),
    "beam_search_diversity_rate": "FP32",
    **dict.fromkeys(("early_stopping", "stop"), "BOOL"),
}
_RAGGED: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("input_ids", "INT32", (-1,)),
    ("draft_input_ids", "INT32", (-1,)),
    ("decoder_input_ids", "INT32", (-1,)),
    ("draft_logits", "FP32", (-1, -1)),
    ("stop_words_list", "INT32", (2, -1)),
    ("bad_words_list", "INT32", (2, -1)),
    ("embedding_bias", "FP32", (-1,)),
    ("prompt_embedding_table", "FP16", (-1, -1)),
    ("prompt_table_extra_ids", "UINT64", (-1,)),
    ("cross_attention_mask", "BOOL", (-1, -1)),
    ("lora_weights", "FP16", (-1, -1)),
    ("lora_config", "INT32", (-1, 3)),
    ("context_phase_params", "UINT8", (-1,)),
    ("skip_cross_attn_blocks", "BOOL", (1,)),
    *((f"retention_token_range_{part}", "INT32", (-1,)) for part in ("starts", "ends", "priorities", "durations_ms")),
)
_RESULTS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("cum_log_probs", "FP32", (-1,)),
    ("output_log_probs", "FP32", (-1, -1)),
    ("context_logits", "FP32", (-1, -1)),
    ("generation_logits", "FP32", (-1, -1, -1)),
    ("batch_index", "INT32", (1,)),
    ("sequence_index", "INT32", (1,)),
    ("kv_cache_alloc_new_blocks", "INT32", (1,)),
    ("kv_cache_reused_blocks", "INT32", (1,)),
    ("kv_cache_alloc_total_blocks", "INT32", (1,)),
    *((f"{part}_time_ns", "INT64", (1,)) for part in ("arrival", "first_scheduled", "first_token", "last_token")),
    ("acceptance_rate", "FP32", (1,)),
    ("total_accepted_draft_tokens", "INT32", (1,)),
    ("total_draft_tokens", "INT32", (1,)),
)
_ENGINE_PARAMETERS = {
    "max_beam_width": "1",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "gpt_model_type": "inflight_fused_batching",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "kv_cache_free_gpu_mem_fraction": "0.9",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
    **dict.fromkeys(
        [
            "encoder_model_path",
            "max_tokens_in_paged_kv_cache",
            "max_attention_window_size",
            "sink_token_length",
            "cross_kv_cache_fraction",
            "kv_cache_host_memory_bytes",
            "kv_cache_onboard_blocks",
            "exclude_input_in_output",
            "cancellation_check_period_ms",
            "stats_check_period_ms",
            "recv_poll_period_ms",
            "iter_stats_max_iterations",
            "request_stats_max_iterations",
            "enable_kv_cache_reuse",
            "normalize_log_probs",
            "enable_chunked_context",
            "gpu_device_ids",
            "participant_ids",
            "lora_cache_optimal_adapter_size",
            "lora_cache_max_adapter_size",
            "lora_cache_gpu_memory_fraction",
            "lora_cache_host_memory_bytes",
            "decoding_mode",
            "medusa_choices",
            "eagle_choices",
            "gpu_weights_percent",
            "enable_context_fmha_fp32_acc",
            "multi_block_mode",
            "cuda_graph_mode",
            "cuda_graph_cache_size",
        ],
        "",
    ),
}


def _client_inputs() -> str:
    text = tensor("input", "text_input", "STRING", [1]) + tensor("input", "max_tokens", "INT32", [1])
    for name in ("bad_words", "stop_words"):
        text += tensor("input", name, "STRING", [-1], "optional")
    text += "".join(tensor("input", name, kind, [1], "optional") for name, (kind, _) in _SAMPLING.items())
    text += tensor("input", "embedding_bias_words", "STRING", [-1], "optional")
    text += tensor("input", "embedding_bias_weights", "FP32", [-1], "optional")
    text += tensor("input", "prompt_embedding_table", "FP16", [-1, -1], "optional")
    return text + tensor("input", "lora_config", "INT32", [-1, 3], "optional", "ragged")


def _outputs(rows: Iterable[tuple[str, str, tuple[int, ...]]]) -> str:
    return "".join(tensor("output", *row) for row in rows)


def _configs(name: str, version: str, root: str) -> dict[str, str]:
    pre, engine, post = f"{name}-preprocessing", f"{name}-engine", f"{name}-postprocessing"
    cpu = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    results = [row[0] for row in _RESULTS]
    ensemble = f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: 8\n' + _client_inputs()
    ensemble += tensor("output", "text_output", "STRING", [-1]) + _outputs(_RESULTS) + "ensemble_scheduling {\n"
    ensemble += step(
        pre,
        {
            "QUERY": "text_input",
            "REQUEST_OUTPUT_LEN": "max_tokens",
            "BAD_WORDS_DICT": "bad_words",
            "STOP_WORDS_DICT": "stop_words",
            "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
            "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
            "END_ID": "end_id",
            "PAD_ID": "pad_id",
        },
        {
            "INPUT_ID": "_INPUT_ID",
            "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
            "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
            "BAD_WORDS_IDS": "_BAD_WORDS_IDS",
            "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
            "EMBEDDING_BIAS": "_EMBEDDING_BIAS",
            "OUT_END_ID": "_END_ID",
            "OUT_PAD_ID": "_PAD_ID",
        },
    )
    forwarded = {target: source for source, (_, target) in _SAMPLING.items() if source not in ("end_id", "pad_id")}
    ensemble += step(
        engine,
        {
            "input_ids": "_INPUT_ID",
            "input_lengths": "_REQUEST_INPUT_LEN",
            "request_output_len": "_REQUEST_OUTPUT_LEN",
            "end_id": "_END_ID",
            "pad_id": "_PAD_ID",
            "bad_words_list": "_BAD_WORDS_IDS",
            "stop_words_list": "_STOP_WORDS_IDS",
            "embedding_bias": "_EMBEDDING_BIAS",
            "prompt_embedding_table": "prompt_embedding_table",
            "lora_config": "lora_config",
            **forwarded,
        },
        {"output_ids": "_TOKENS_BATCH", "sequence_length": "_SEQUENCE_LENGTH", **{r: r for r in results}},
    )
    ensemble += step(post, {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"}, {"OUTPUT": "text_output"})
    ensemble += "}\n"

    preprocessing = f'name: "{pre}"\nbackend: "python"\nmax_batch_size: 8\n'
    preprocessing += tensor("input", "QUERY", "STRING", [1]) + tensor("input", "REQUEST_OUTPUT_LEN", "INT32", [1])
    for key, kind, dims in (
        ("BAD_WORDS_DICT", "STRING", [-1]),
        ("STOP_WORDS_DICT", "STRING", [-1]),
        ("EMBEDDING_BIAS_WORDS", "STRING", [-1]),
        ("EMBEDDING_BIAS_WEIGHTS", "FP32", [-1]),
        ("END_ID", "INT32", [1]),
        ("PAD_ID", "INT32", [1]),
    ):
        preprocessing += tensor("input", key, kind, dims, "optional")
    for key, kind, dims in (
        ("INPUT_ID", "INT32", [-1]),
        ("REQUEST_INPUT_LEN", "INT32", [1]),
        ("REQUEST_OUTPUT_LEN", "INT32", [-1]),
        ("BAD_WORDS_IDS", "INT32", [2, -1]),
        ("STOP_WORDS_IDS", "INT32", [2, -1]),
        ("EMBEDDING_BIAS", "FP32", [-1]),
        ("OUT_END_ID", "INT32", [1]),
        ("OUT_PAD_ID", "INT32", [1]),
    ):
        preprocessing += tensor("output", key, kind, dims)
    tokenizer = parameter("tokenizer_dir", f"{root}./{pre}/{version}/tokenizer")
    preprocessing += cpu + tokenizer + parameter("add_special_tokens", "true")

    model = f'name: "{engine}"\nbackend: "tensorrtllm"\nmax_batch_size: 8\nmodel_transaction_policy {{ decoupled: false }}\n'
    model += tensor("input", "input_lengths", "INT32", [1], "scalar") + tensor(
        "input", "request_output_len", "INT32", [1], "scalar"
    )
    model += "".join(tensor("input", *row, "optional", "ragged") for row in _RAGGED)
    model += "".join(tensor("input", target, kind, [1], "optional", "scalar") for kind, target in _SAMPLING.values())
    model += "".join(tensor("input", key, kind, [1], "optional", "scalar") for key, kind in _ENGINE_ONLY.items())
    model += tensor("output", "output_ids", "INT32", [-1, -1]) + tensor("output", "sequence_length", "INT32", [-1])
    model += _outputs(_RESULTS) + cpu + parameter("gpt_model_path", f"{root}./{engine}/{version}/engine")
    model += "".join(parameter(key, value) for key, value in _ENGINE_PARAMETERS.items())

    postprocessing = f'name: "{post}"\nbackend: "python"\nmax_batch_size: 8\n'
    postprocessing += tensor("input", "TOKENS_BATCH", "INT32", [-1, -1]) + tensor("input", "SEQUENCE_LENGTH", "INT32", [-1])
    postprocessing += tensor("output", "OUTPUT", "STRING", [-1]) + cpu + tokenizer + parameter("skip_special_tokens", "true")

    bls = f'name: "{name}-bls"\nbackend: "python"\nmax_batch_size: 8\nmodel_transaction_policy {{ decoupled: false }}\n'
    bls += _client_inputs() + tensor("output", "text_output", "STRING", [-1]) + _outputs(_RESULTS) + cpu
    bls += parameter("accumulate_tokens", "true") + parameter("tensorrt_llm_model_name", engine)
    bls += parameter("preprocessing_model_name", pre) + parameter("postprocessing_model_name", post)
    return {name: ensemble, pre: preprocessing, engine: model, post: postprocessing, f"{name}-bls": bls}


def engine_config(*, tp: int = 2, pp: int = 1, batch: int = 16, version: str = "0.19.0") -> str:
    return json.dumps(
        {
            "version": version,
            "pretrained_config": {
                "architecture": "LlamaForCausalLM",
                "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
            },
            "build_config": {"max_batch_size": batch, "max_input_len": 1024, "max_seq_len": 2048, "max_beam_width": 1},
        }
    )


def tensorrt_llm(version: str = "1", *, name: str = "llama", root: str = "") -> dict[str, str | bytes]:
    """The five models; paths carry enginepress's mark (`./`), after `root` if there is one."""
    files: dict[str, str | bytes] = {}
    for model, config in _configs(name, version, root).items():
        files[f"{model}/config.pbtxt"] = config
        files[f"{model}/{version}/.keep"] = ""
        if 'backend: "python"' in config:
            files[f"{model}/{version}/model.py"] = PYTHON_MODEL
    files[f"{name}-preprocessing/{version}/tokenizer/tokenizer.json"] = json.dumps({"version": "1.0"})
    files[f"{name}-engine/{version}/engine/config.json"] = engine_config()
    for rank in range(2):
        files[f"{name}-engine/{version}/engine/rank{rank}.engine"] = b"ftrt" + bytes(64)
    return files


# ------------------------------------------------------------------------------------------------------------------
# One-model repositories without an engine
# ------------------------------------------------------------------------------------------------------------------


def vllm(version: str = "1") -> dict[str, str | bytes]:
    config = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
    at = f"chat/{version}"
    return {
        "chat/config.pbtxt": config,
        f"{at}/model.json": json.dumps({"model": f"./{at}/checkpoint", "gpu_memory_utilization": 0.5}),
        f"{at}/checkpoint/config.json": "{}",
        f"{at}/checkpoint/model.safetensors": WEIGHTS,
        f"{at}/checkpoint/tokenizer.json": json.dumps({"version": "1.0"}),
    }


def llmapi(version: str = "1") -> dict[str, str | bytes]:
    config = (
        'name: "chat"\nbackend: "python"\n'
        + tensor("input", "text_input", "STRING", [-1])
        + tensor("output", "text_output", "STRING", [-1])
        + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )
    at = f"chat/{version}"
    return {
        "chat/config.pbtxt": config,
        f"{at}/model.py": PYTHON_MODEL,
        f"{at}/model.yaml": f"model: ./{at}/checkpoint\nbackend: pytorch\ntriton_config:\n  max_batch_size: 0\n",
        f"{at}/checkpoint/config.json": "{}",
        f"{at}/checkpoint/model.safetensors": WEIGHTS,
        f"{at}/checkpoint/tokenizer.json": json.dumps({"version": "1.0"}),
    }
