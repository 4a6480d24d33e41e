"""The parameters of NVIDIA's TensorRT-LLM model repository that a recipe may set, by NVIDIA's own names.

Sources: the templates' `parameters` and the backend's reader of them, triton-inference-server/tensorrtllm_backend at v0.18.2
(all_models/inflight_batcher_llm/*/config.pbtxt, inflight_batcher_llm/src/model_instance_state.cc, docs/model_config.md) and
v0.19.0, and NVIDIA/TensorRT-LLM triton_backend/all_models/inflight_batcher_llm at 0c8de69a and 0193dbd4 for 1.x. What a value
may be is from model_config.md, and where that says nothing, from the type that the backend reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from enginepress.errors import RecipeError
from enginepress.repository.plans.nearest import nearest

Generation = Literal["tensorrt_llm_0_18", "tensorrt_llm_0_19", "tensorrt_llm_1_0"]
GENERATIONS: tuple[Generation, ...] = ("tensorrt_llm_0_18", "tensorrt_llm_0_19", "tensorrt_llm_1_0")
Value = str | int | float | bool
Kind = Literal["text", "bool", "int", "fraction", "choice", "pattern"]
Target = Literal["engine", "preprocessing", "postprocessing", "queue", "instances", "data_type"]

WHERE = "serving.parameters"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        target: which model's `parameters` it joins, or what else of the configs it sets.
        least, most: of a number; a fraction lies between 0 and 1 anyway.
        choices: the values of a choice; for a pattern, one example.
        pattern: what the text must match.
        since: the first generation of templates that has it.
        until: the last one.
        placeholder: NVIDIA's name in fill_template.py's list, where that is another one; it is taken as well.
    """

    name: str
    kind: Kind
    target: Target = "engine"
    least: int = 0
    most: int | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    since: Generation = "tensorrt_llm_0_18"
    until: Generation = "tensorrt_llm_1_0"
    placeholder: str = ""

    def known_in(self, generation: Generation) -> bool:
        at = GENERATIONS.index(generation)
        return GENERATIONS.index(self.since) <= at <= GENERATIONS.index(self.until)


_NUMBERS = r"\d+(,\d+)*"
_COUNTS = r"[1-9]\d*(,[1-9]\d*)*"
_SETS = rf"{_NUMBERS}(;{_NUMBERS})*"
_TREE = r"\s*\{\s*\d+(\s*,\s*\d+)*\s*\}(\s*,\s*\{\s*\d+(\s*,\s*\d+)*\s*\})*\s*"
_TYPES = ("TYPE_FP16", "TYPE_BF16", "TYPE_FP32")
_DECODING = ("top_k", "top_p", "top_k_top_p", "beam_search", "medusa", "redrafter", "lookahead", "eagle")

PARAMETERS: tuple[Parameter, ...] = (
    # The engine and its scheduler
    Parameter(
        "gpt_model_type", "choice", choices=("inflight_fused_batching", "inflight_batching"), placeholder="batching_strategy"
    ),
    Parameter("batch_scheduler_policy", "choice", choices=("guaranteed_no_evict", "max_utilization")),
    Parameter("max_beam_width", "int", least=1),
    Parameter("exclude_input_in_output", "bool"),
    Parameter("normalize_log_probs", "bool"),
    Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "choice", choices=("no", "yes")),
    Parameter("executor_worker_path", "pattern", pattern=r"/.+", choices=("/opt/tritonserver/backends/…",)),
    Parameter("encoder_model_path", "pattern", pattern=r"/.+", choices=("/models/encoder",), placeholder="encoder_engine_dir"),
    Parameter("cancellation_check_period_ms", "int", least=1),
    Parameter("stats_check_period_ms", "int", least=1),
    Parameter("recv_poll_period_ms", "int"),
    Parameter("iter_stats_max_iterations", "int"),
    Parameter("request_stats_max_iterations", "int"),
    # KV cache
    Parameter("kv_cache_free_gpu_mem_fraction", "fraction"),
    Parameter("max_tokens_in_paged_kv_cache", "int", least=1),
    Parameter("max_attention_window_size", "pattern", pattern=_COUNTS, choices=("4096 or 4096,1024",)),
    Parameter("sink_token_length", "int"),
    Parameter("cross_kv_cache_fraction", "fraction"),
    Parameter("kv_cache_host_memory_bytes", "int"),
    Parameter("kv_cache_onboard_blocks", "bool"),
    Parameter("enable_kv_cache_reuse", "bool"),
    # Speed
    Parameter("enable_chunked_context", "bool"),
    Parameter("enable_context_fmha_fp32_acc", "bool"),
    Parameter("multi_block_mode", "bool"),
    Parameter("cuda_graph_mode", "bool"),
    Parameter("cuda_graph_cache_size", "int"),
    Parameter("gpu_weights_percent", "fraction"),
    Parameter("enable_trt_overlap", "bool", since="tensorrt_llm_1_0"),
    # Several GPUs
    Parameter("gpu_device_ids", "pattern", pattern=_SETS, choices=("0,1 or 0,1;2,3",)),
    Parameter("participant_ids", "pattern", pattern=_SETS, choices=("1,2",)),
    Parameter("num_nodes", "int", least=1, since="tensorrt_llm_0_19"),
    # LoRA
    Parameter("lora_cache_optimal_adapter_size", "int", least=1),
    Parameter("lora_cache_max_adapter_size", "int", least=1),
    Parameter("lora_cache_gpu_memory_fraction", "fraction"),
    Parameter("lora_cache_host_memory_bytes", "int"),
    Parameter("lora_prefetch_dir", "pattern", pattern=r"/.+", choices=("/models/adapters",), since="tensorrt_llm_0_19"),
    # Decoding
    Parameter("decoding_mode", "choice", choices=_DECODING),
    Parameter("medusa_choices", "pattern", pattern=_TREE, choices=("{0}, {0, 0}, {1}",)),
    Parameter("eagle_choices", "pattern", pattern=_TREE, choices=("{0}, {0, 0}, {1}",)),
    Parameter("lookahead_window_size", "int", least=1, since="tensorrt_llm_0_19"),
    Parameter("lookahead_ngram_size", "int", least=1, since="tensorrt_llm_0_19"),
    Parameter("lookahead_verification_set_size", "int", least=1, since="tensorrt_llm_0_19"),
    Parameter("speculative_decoding_fast_logits", "bool"),
    Parameter("guided_decoding_backend", "choice", choices=("xgrammar",), since="tensorrt_llm_0_19"),
    Parameter(
        "xgrammar_tokenizer_info_path",
        "pattern",
        pattern=r"/.+",
        choices=("/models/xgrammar.json",),
        since="tensorrt_llm_0_19",
    ),
    # Tokens
    Parameter("add_special_tokens", "bool", "preprocessing"),
    Parameter("skip_special_tokens", "bool", "postprocessing"),
    # Triton
    Parameter("max_queue_delay_microseconds", "int", "queue"),
    Parameter("max_queue_size", "int", "queue"),
    Parameter("preprocessing_instance_count", "int", "instances", least=1, most=1024),
    Parameter("bls_instance_count", "int", "instances", least=1, most=1024),
    # Data types of tensors
    Parameter("logits_datatype", "choice", "data_type", choices=("TYPE_FP32", "TYPE_FP16")),
    Parameter("encoder_input_features_data_type", "choice", "data_type", choices=_TYPES),
    Parameter("prompt_embedding_table_data_type", "choice", "data_type", choices=_TYPES, since="tensorrt_llm_1_0"),
)

SET_ELSEWHERE = {
    "triton_backend": "it is always tensorrtllm",
    "triton_max_batch_size": "set engine.limits.max_batch_size",
    "decoupled_mode": "set serving.streaming",
    "gpt_model_path": "enginepress sets it to the engine that it built",
    "engine_dir": "enginepress sets it to the engine that it built",
    "tokenizer_dir": "enginepress sets it to the checkpoint's tokenizer",
    "tensorrt_llm_model_name": "enginepress sets it",
    "postprocessing_instance_count": "it is always 1, so that the pieces of an answer stay in order",
    "accumulate_tokens": "<name>-bls always decodes a token with those before it",
    "tensorrt_llm_draft_model_name": "<name>-bls runs no draft model; use medusa, eagle, redrafter or lookahead in the engine",
    "multimodal_encoders_name": "images and video are not served",
    "multimodal_model_path": "images and video are not served",
    "visual_model_path": "images and video are not served",
    "hf_model_path": "images and video are not served",
    "max_num_images": "images and video are not served",
    "V1": "in-flight batching is always used",
}
"""NVIDIA's parameters that are not set here -> why, or where they are."""

_BY_NAME = {name: p for p in PARAMETERS for name in (p.name, p.placeholder) if name}


def read_parameters(given: Mapping[str, Value], generation: Generation) -> dict[Parameter, str]:
    """`serving.parameters`, checked and written as NVIDIA's configs write them.

    Raises:
        RecipeError: naming the parameter, what it may be, and for an unknown one the nearest.
    """
    found: dict[Parameter, str] = {}
    for name, value in given.items():
        where = f"{WHERE}.{name}"
        parameter = _BY_NAME.get(name)
        if parameter is None:
            raise _unknown(name, where, generation)
        if not parameter.known_in(generation):
            raise RecipeError(
                f"the repository of this TensorRT-LLM release ({generation}) has no parameter '{name}'; it has it from "
                f"{parameter.since} on",
                where=where,
                fix="leave it out, or name a newer engine.container",
            )
        if parameter in found:
            raise RecipeError(f"is the same parameter as '{parameter.name}', which is set as well", where=where, fix="set one")
        found[parameter] = _text(parameter, value, where)
    return found


def _unknown(name: str, where: str, generation: Generation) -> RecipeError:
    if name in SET_ELSEWHERE:
        return RecipeError(f"'{name}' is not a parameter to set here: {SET_ELSEWHERE[name]}", where=where, fix="leave it out")
    known = sorted(n for n, p in _BY_NAME.items() if p.known_in(generation))
    return RecipeError(
        f"NVIDIA's repository for this release ({generation}) has no parameter '{name}'", where=where, fix=nearest(name, known)
    )


def _text(parameter: Parameter, value: Value, where: str) -> str:
    """The value as text, if it is one that the parameter can have."""
    kind = parameter.kind
    if kind == "bool":
        if not isinstance(value, bool):
            raise RecipeError(f"must be true or false, not {value!r}", where=where)
        return "true" if value else "false"
    if kind == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecipeError(f"must be a whole number, not {value!r}", where=where)
        if value < parameter.least or (parameter.most is not None and value > parameter.most):
            most = "" if parameter.most is None else f" and at most {parameter.most}"
            raise RecipeError(f"is {value}; it must be at least {parameter.least}{most}", where=where)
        return str(value)
    if kind == "fraction":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"must be a number from 0 to 1, not {value!r}", where=where)
        if not 0 <= value <= 1:  # also false for nan
            raise RecipeError(f"is {value}; it must be from 0 to 1", where=where)
        return format(value, "g") if value in (0, 1) else format(value, ".9g")
    text = str(value)
    if kind == "choice" and (isinstance(value, bool) or text not in parameter.choices):
        raise RecipeError(f"is {value!r}; it must be one of: {', '.join(parameter.choices)}", where=where)
    if kind == "pattern" and (isinstance(value, (bool, float)) or not re.fullmatch(parameter.pattern, text)):
        raise RecipeError(f"is {value!r}, which it cannot be; for example {parameter.choices[0]}", where=where)
    if "${" in text or any(ord(c) < 32 for c in text):
        raise RecipeError(f"is {value!r}: placeholders and control characters cannot be served", where=where)
    return text
