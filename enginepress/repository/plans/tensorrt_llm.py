"""The models of NVIDIA's TensorRT-LLM repository: an ensemble of preprocessing, engine and postprocessing, maybe a BLS model.

<name>                    the ensemble: what clients call
<name>-preprocessing      text or chat messages to tokens; holds the tokenizer
<name>-engine             the engine, in NVIDIA's C++ backend
<name>-postprocessing     tokens to text
<name>-bls                with serving.bls: the same in one Python model
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from enginepress.engines.prompts import paged_context, wants_chunks
from enginepress.errors import RecipeError
from enginepress.repository import UNPLACED_VERSION
from enginepress.repository.plans import ModelPlan
from enginepress.repository.plans.tensorrt_llm_parameters import (
    GENERATIONS,
    PARAMETERS,
    WHERE,
    Generation,
    Parameter,
    Target,
    read_parameters,
)
from enginepress.repository.templates import MARK
from enginepress.repository.values import ConfigValues, InstanceGroup, Queue

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

_COMMON = ("llm_chat", "llm_detokenize", "llm_errors", "llm_generation", "llm_tokenizer", "llm_triton_error")
_FILES = {
    "preprocessing": ("preprocessing/model", "preprocessing/trt_requests", "preprocessing/trt_words"),
    "postprocessing": ("postprocessing/model", "trt_pieces"),
    "bls": ("bls/model", "bls/trt_answer", "bls/trt_calls", "trt_pieces"),
}

_DEFAULTS = {
    "gpt_model_type": "inflight_fused_batching",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "kv_cache_free_gpu_mem_fraction": "0.9",
    "exclude_input_in_output": "true",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}
"""Of the engine's parameters; NVIDIA's, but for exclude_input_in_output: an answer does not begin with its prompt."""

_TENSORS = {
    "logits_datatype": ("context_logits", "generation_logits", "draft_logits"),
    "encoder_input_features_data_type": ("encoder_input_features",),
    "prompt_embedding_table_data_type": ("prompt_embedding_table",),
}


_SPECULATION = {
    "medusa": "medusa",
    "eagle": "eagle",
    "redrafter": "explicit_draft_tokens",
    "lookahead": "lookahead_decoding",
}
"""`decoding_mode` by what trtllm-build calls it (`--speculative_decoding_mode`)."""


def plan(recipe: Recipe) -> tuple[ModelPlan, ...]:
    generation = generation_of(recipe)
    given = read_parameters(recipe.serving.parameters, generation)
    check_together(recipe, given)
    name, batch = recipe.name, recipe.engine.limits.max_batch_size
    names = {part: f"{name}-{part}" for part in ("preprocessing", "engine", "postprocessing")}
    tokenizer = f"{MARK}{names['preprocessing']}/{UNPLACED_VERSION}/tokenizer"
    engine = f"{MARK}{names['engine']}/{UNPLACED_VERSION}/engine"
    queue = Queue(int(_of(given, "max_queue_delay_microseconds") or 0), int(_of(given, "max_queue_size") or 0))
    types = _data_types(recipe, given)
    streaming = recipe.serving.streaming
    defaults = {
        "max_tokens_default": str(recipe.serving.max_tokens_default),
        "streaming": "true" if streaming else "false",
    }
    models = [
        ModelPlan("ensemble", ConfigValues(name, max_batch_size=batch, data_types=types, steps=names)),
        ModelPlan(
            "preprocessing",
            ConfigValues(
                names["preprocessing"],
                max_batch_size=batch,
                instance_group=_cpu(given, "preprocessing_instance_count"),
                queue=queue if generation != "tensorrt_llm_0_18" else None,
                parameters={
                    "tokenizer_dir": tokenizer,
                    "gpt_model_path": engine,
                    "add_special_tokens": "true",
                    **defaults,
                    **_parameters(given, "preprocessing"),
                },
            ),
            tokenizer="tokenizer",
            shared=_shared("preprocessing"),
        ),
        ModelPlan(
            "engine",
            ConfigValues(
                names["engine"],
                max_batch_size=batch,
                decoupled=streaming,
                instance_group=_engine_instances(given),
                queue=queue,
                data_types=types,
                parameters={
                    "gpt_model_path": engine,
                    "max_beam_width": str(recipe.engine.limits.max_beam_width),
                    **_DEFAULTS,
                    **_chunked(recipe),
                    **({"multi_gpu": recipe.serving.multi_gpu} if recipe.engine.parallelism.world_size > 1 else {}),
                    **({"tokenizer_dir": tokenizer} if _of(given, "guided_decoding_backend") else {}),
                    **_parameters(given, "engine"),
                },
            ),
            engine="engine",
        ),
        ModelPlan(
            "postprocessing",
            ConfigValues(
                names["postprocessing"],
                max_batch_size=batch,
                parameters={
                    "tokenizer_dir": tokenizer,
                    "skip_special_tokens": "true",
                    **_parameters(given, "postprocessing"),
                },
            ),
            shared=_shared("postprocessing"),
        ),
    ]
    if recipe.serving.bls:
        models.append(_bls(recipe, given, names, tokenizer, types))
    return tuple(models)


def generation_of(recipe: Recipe) -> Generation:
    """The template that fits the recipe's container.

    Raises:
        RecipeError: for a container whose TensorRT-LLM has no engines.
    """
    from enginepress.engines import versions

    container = versions.choose(recipe)
    if container.template not in GENERATIONS:
        raise RecipeError(
            f"the container {container.tag} serves no TensorRT-LLM engines",
            where="engine.container",
            fix="builder: llmapi serves checkpoints",
        )
    return container.template


def check_together(recipe: Recipe, given: Mapping[Parameter, str]) -> None:
    """What parameters demand of each other and of the engine.

    Raises:
        RecipeError: naming both sides.
    """
    limits, world = recipe.engine.limits, recipe.engine.parallelism.world_size
    mode = _of(given, "decoding_mode")
    beams = int(_of(given, "max_beam_width") or limits.max_beam_width)
    if beams > limits.max_beam_width:
        raise _refusal(
            "max_beam_width", f"is {beams}, but the engine is built for {limits.max_beam_width} (engine.limits.max_beam_width)"
        )
    if mode == "beam_search" and beams < 2:
        raise _refusal("decoding_mode", "is beam_search, but engine.limits.max_beam_width is 1")
    for name, needed in (("medusa_choices", "medusa"), ("eagle_choices", "eagle")):
        if _of(given, name) is not None and mode != needed:
            raise _refusal(name, f"is for decoding_mode {needed}, which is {mode or 'not set'}")
    lookahead = [f"lookahead_{part}_size" for part in ("window", "ngram", "verification_set")]
    missing = [name for name in lookahead if _of(given, name) is None]
    if missing and len(missing) < len(lookahead):
        raise _refusal(missing[0], "is missing: the three lookahead sizes go together")
    if not missing and mode != "lookahead":
        raise _refusal(lookahead[0], f"is for decoding_mode lookahead, which is {mode or 'not set'}")
    if _of(given, "cross_kv_cache_fraction") is not None and _of(given, "encoder_model_path") is None:
        raise _refusal("cross_kv_cache_fraction", "is for encoder-decoder models only, and encoder_model_path is not set")
    if _of(given, "guided_decoding_backend") is not None and _of(given, "xgrammar_tokenizer_info_path") is None:
        raise _refusal("guided_decoding_backend", "needs xgrammar_tokenizer_info_path as well")
    share = _of(given, "gpu_weights_percent")
    if share is not None and float(share) < 1 and not _enabled(recipe, "weight_streaming"):
        raise _refusal("gpu_weights_percent", f"is {share}; below 1 the engine must be built with options.build.weight_streaming")
    if _of(given, "enable_chunked_context") == "true" and not paged_context(recipe):
        engine = recipe.engine
        why = (
            "is disabled"
            if "use_paged_context_fmha" in engine.options.build
            else f"engines in {engine.precision} with a KV cache in {engine.kv_cache} do not have"
        )
        raise _refusal("enable_chunked_context", f"needs options.build.use_paged_context_fmha, which {why}")
    _check_speculation(recipe, mode)
    _check_no_effect(recipe, given)
    _check_devices(recipe, given, world)


def _chunked(recipe: Recipe) -> dict[str, str]:
    """Prompts longer than a pass in pieces, wherever engines can: the runtime would refuse them otherwise."""
    return {"enable_chunked_context": "true"} if wants_chunks(recipe) and paged_context(recipe) else {}


def _check_speculation(recipe: Recipe, mode: str | None) -> None:
    """An engine without draft tokens would be loaded, and fail there or with the first request."""
    needed = _SPECULATION.get(mode or "")
    built = recipe.engine.options.build.get("speculative_decoding_mode")
    if needed is not None and built != needed:
        raise _refusal(
            "decoding_mode",
            f"is {mode}, but the engine is built "
            + (f"for {built}" if built else "without speculative decoding")
            + " (engine.options.build.speculative_decoding_mode)",
            fix=f"set engine.options.build.speculative_decoding_mode: {needed} and max_draft_len, or leave decoding_mode out",
        )


def _check_no_effect(recipe: Recipe, given: Mapping[Parameter, str]) -> None:
    """Parameters that nothing reads without another field."""
    build = recipe.engine.options.build
    without = {
        "options.build.lora_plugin": build.get("lora_plugin", "disable") not in (False, "disable"),
        "serving.bls": recipe.serving.bls,
        "cuda_graph_mode": _of(given, "cuda_graph_mode") == "true",
        "options.build.speculative_decoding_mode: draft_tokens_external": (
            build.get("speculative_decoding_mode") == "draft_tokens_external"
        ),
    }
    for name, needed in _NEEDS.items():
        if _of(given, name) not in (None, "false") and not without[needed]:
            raise _refusal(name, f"has no effect without {needed}", fix=f"leave it out, or set {needed}")


_LORA = ("optimal_adapter_size", "max_adapter_size", "gpu_memory_fraction", "host_memory_bytes")
_NEEDS = {
    **{f"lora_cache_{name}": "options.build.lora_plugin" for name in _LORA},
    "lora_prefetch_dir": "options.build.lora_plugin",
    "bls_instance_count": "serving.bls",
    "cuda_graph_cache_size": "cuda_graph_mode",
    "speculative_decoding_fast_logits": "options.build.speculative_decoding_mode: draft_tokens_external",
}


def _check_devices(recipe: Recipe, given: Mapping[Parameter, str], world: int) -> None:
    devices, participants = _of(given, "gpu_device_ids"), _of(given, "participant_ids")
    # As numbers: "01" is GPU 1.
    sets = [[str(int(number)) for number in part.split(",")] for part in devices.split(";")] if devices else []
    for group in sets:
        if len(group) != world or len(set(group)) != len(group):
            raise _refusal(
                "gpu_device_ids", f"is '{devices}': each set must name {world} different GPUs (TP x PP x CP of the engine)"
            )
    used = [gpu for group in sets for gpu in group]
    if (twice := _first_twice(used)) is not None:
        raise _refusal("gpu_device_ids", f"is '{devices}': GPU {twice} is in two sets", fix="name each GPU once")
    gpu = recipe.engine.gpu
    if gpu is not None and (beyond := [number for number in used if int(number) >= gpu.count * gpu.nodes]):
        raise _refusal(
            "gpu_device_ids",
            f"is '{devices}': there is no GPU {beyond[0]} among {gpu.count * gpu.nodes}, counted from 0 (engine.gpu.count)",
        )
    if len(sets) > 1 and world > 1 and recipe.serving.multi_gpu == "leader":
        raise _refusal(
            "gpu_device_ids",
            f"names {len(sets)} sets of GPUs, which a process for each rank (serving.multi_gpu: leader) cannot serve",
            fix="set serving.multi_gpu: orchestrator",
        )
    if participants is not None:
        if recipe.serving.multi_gpu != "orchestrator":
            raise _refusal("participant_ids", "is for serving.multi_gpu: orchestrator")
        if (twice := _first_twice(participants.replace(";", ",").split(","))) is not None:
            raise _refusal("participant_ids", f"is '{participants}': rank {twice} is named twice", fix="name each rank once")
        for named in participants.split(";"):
            ranks = named.split(",")
            if len(ranks) != world or "0" in ranks:
                raise _refusal(
                    "participant_ids", f"is '{participants}': each set must name {world} ranks, and 0 is the orchestrator's"
                )
    nodes = _of(given, "num_nodes")
    if nodes is not None and recipe.engine.gpu is not None and int(nodes) != recipe.engine.gpu.nodes:
        raise _refusal("num_nodes", f"is {nodes}, but engine.gpu.nodes is {recipe.engine.gpu.nodes}")


def _first_twice(names: list[str]) -> str | None:
    return next((name for number, name in enumerate(names) if name in names[:number]), None)


def _bls(
    recipe: Recipe, given: Mapping[Parameter, str], names: Mapping[str, str], tokenizer: str, types: Mapping[str, str]
) -> ModelPlan:
    parameters = {
        "tokenizer_dir": tokenizer,
        "preprocessing_model_name": names["preprocessing"],
        "tensorrt_llm_model_name": names["engine"],
        "max_concurrent_requests": str(recipe.serving.max_concurrent_requests),
    }
    values = ConfigValues(
        f"{recipe.name}-bls",
        max_batch_size=recipe.engine.limits.max_batch_size,
        decoupled=recipe.serving.streaming,
        instance_group=_cpu(given, "bls_instance_count"),
        data_types=types,
        parameters=parameters,
    )
    return ModelPlan("bls", values, shared=(*_shared("bls"), "common/llm_stops.py", "common/llm_unknown.py"))


def _shared(part: str) -> tuple[str, ...]:
    return (*(f"tensorrt_llm/{name}.py" for name in _FILES[part]), *(f"common/{name}.py" for name in _COMMON))


def _cpu(given: Mapping[Parameter, str], name: str) -> InstanceGroup:
    return InstanceGroup("KIND_CPU", count=int(_of(given, name) or 1))


def _engine_instances(given: Mapping[Parameter, str]) -> InstanceGroup:
    """One, or one for each set of GPUs."""
    devices = _of(given, "gpu_device_ids")
    return InstanceGroup("KIND_CPU", count=1 + devices.count(";") if devices else 1)


def _data_types(recipe: Recipe, given: Mapping[Parameter, str]) -> dict[str, str]:
    logits = "TYPE_FP16" if recipe.engine.options.build.get("logits_dtype") == "float16" else "TYPE_FP32"
    activations = "TYPE_BF16" if recipe.engine.precision == "bfloat16" else "TYPE_FP16"
    chosen = {"logits_datatype": logits, "encoder_input_features_data_type": activations}
    chosen |= {p.name: value for p, value in given.items() if p.target == "data_type"}
    if _of(given, "logits_datatype") not in (None, logits) and "logits_dtype" in recipe.engine.options.build:
        raise _refusal("logits_datatype", f"is {chosen['logits_datatype']}, but options.build.logits_dtype makes {logits}")
    return {tensor: value for name, value in chosen.items() for tensor in _TENSORS[name]}


def _parameters(given: Mapping[Parameter, str], target: Target) -> dict[str, str]:
    return {parameter.name: value for parameter, value in given.items() if parameter.target == target}


def _of(given: Mapping[Parameter, str], name: str) -> str | None:
    return next((value for parameter, value in given.items() if parameter.name == name), None)


def _enabled(recipe: Recipe, flag: str) -> bool:
    return recipe.engine.options.build.get(flag) in (True, "enable", "true")


def _refusal(name: str, message: str, *, fix: str = "change one of the two") -> RecipeError:
    assert any(p.name == name for p in PARAMETERS)
    return RecipeError(message, where=f"{WHERE}.{name}", fix=fix)
