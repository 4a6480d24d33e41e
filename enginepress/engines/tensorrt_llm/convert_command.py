"""The command line that makes a TensorRT-LLM checkpoint of a Hugging Face one.

Two tools do it. A family's own `convert_checkpoint.py` converts, and quantizes weights to int8 or int4 by rounding;
`quantize.py` (ModelOpt) measures activations with texts and makes the rest. Which flags there are differs by family and
release, so none is written that `contracts` does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.calibration import refuse_unused
from enginepress.engines.quantized import Quantization
from enginepress.engines.tensorrt_llm import contracts, places
from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, FAMILIES, Family, architecture_name
from enginepress.engines.tensorrt_llm.flags import Contract
from enginepress.engines.tensorrt_llm.model import compute_type
from enginepress.engines.tensorrt_llm.options import Arguments, command_line, merge_options
from enginepress.engines.tensorrt_llm.quantize_rules import AWQ_SAMPLES, CALIBRATED, check_quantize
from enginepress.errors import RecipeError
from enginepress.recipe import Calibration, Recipe

QFORMATS = {
    "float32": "full_prec",
    "float16": "full_prec",
    "bfloat16": "full_prec",
    "int8": "int8_wo",
    "int4": "int4_wo",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "int8_sq": "int8_sq",
    "int4_awq": "int4_awq",
    "w4a8_awq": "w4a8_awq",
}
"""The recipe's precisions by quantize.py's names."""

FLOATS = ("float32", "float16", "bfloat16")
_BY_SCRIPT = {"use_fp8_rowwise": "fp8", "smoothquant": "int8_sq"}
"""Options that choose the script's own way of making a precision, instead of quantize.py."""

_PARALLEL = {
    "tp_size": "tensor",
    "world_size": "tensor",
    "pp_size": "pipeline",
    "cp_size": "context",
    "moe_tp_size": "moe_tensor",
    "moe_ep_size": "moe_expert",
}
_NO_CHECKPOINT = "leave it out: it makes no checkpoint that could be built"
_NO_EFFECT = "leave it out: it is for quantizations that are not made here, whose groups come with the checkpoint"
_HAND_MADE = "leave it out: shapes are taken from the checkpoint's config.json"

GOVERNED: dict[str, str] = {
    "model_dir": "it is the recipe's source",
    "meta_ckpt_dir": "it is the recipe's source, a checkpoint in Hugging Face's format",
    "nemo_ckpt_path": "it is the recipe's source, a checkpoint in Hugging Face's format",
    "quant_ckpt_path": "name the quantized checkpoint as the recipe's source",
    "output_dir": "the workspace decides that",
    "output_model_dir": "the workspace decides that",
    **{flag: f"use engine.parallelism.{field}" for flag, field in _PARALLEL.items()},
    **dict.fromkeys(
        (
            "use_weight_only",
            "weight_only_precision",
            "use_weight_only_with_precision",
            "use_fp8",
            "enable_fp8",
            "use_nvfp4",
            "use_smooth_quant",
            "use_qserve",
            "qformat",
            "autoq_format",
            "auto_quantize_bits",
        ),
        "use engine.precision, which stands for one quantization: of several, the tools silently take the first",
    ),
    **dict.fromkeys(
        ("int8_kv_cache", "fp8_kv_cache", "calibrate_kv_cache", "kv_cache_dtype"),
        "use engine.kv_cache",
    ),
    "calib_dataset": "use engine.calibration.data, a local file",
    "calib_size": "use engine.calibration.samples",
    "calib_max_seq_length": "use engine.calibration.max_length",
    "batch_size": "use engine.calibration.batch_size",
    "dataset_cache_dir": "leave it out: nothing is downloaded",
    "trust_remote_code": "use source.trust_remote_code",
    "ckpt_type": "leave it out: checkpoints are in Hugging Face's format",
    "export_format": "use engine.builder: llmapi, which quantizes to Hugging Face's format",
    "save_config_only": _NO_CHECKPOINT,
    **dict.fromkeys(("per_group", "group_size"), _NO_EFFECT),
    **dict.fromkeys(("decoder_type", "calib_tp_size", "calib_pp_size"), "leave it out: it is for NeMo's checkpoints"),
    "medusa_model_dir": "leave it out: the heads would come from a folder that is no part of the recipe's source",
    **dict.fromkeys(
        (
            "vocab_size",
            "n_positions",
            "n_layer",
            "n_head",
            "n_kv_head",
            "n_embd",
            "inter_size",
            "multiple_of",
            "ffn_dim_multiplier",
            "rms_norm_eps",
            "norm_eps",
            "hidden_act",
            "rotary_base",
            "rotary_dim",
            "rotary_scaling",
            "moe_num_experts",
            "moe_top_k",
            "moe_renorm_mode",
        ),
        _HAND_MADE,
    ),
}


@dataclass(frozen=True)
class Conversion:
    """How one checkpoint is converted.

    Attributes:
        family: whose script it is.
        tool: contract of what runs: the family's script or `quantize`.
        arguments: of the tool, without the tool itself.
        calibrates: whether it reads texts from `places.CALIBRATION`.
    """

    family: Family
    tool: str
    arguments: Arguments
    calibrates: bool

    @property
    def command(self) -> list[str]:
        return command_line(self.arguments)


def plan_conversion(
    config: Mapping[str, Any], recipe: Recipe, *, version: str, quantization: Quantization | None = None
) -> Conversion:
    """The conversion that makes what the recipe asks for, in this version of TensorRT-LLM.

    Args:
        config: config.json of a checkpoint whose architecture is in `ARCHITECTURES`.
        quantization: how the checkpoint is quantized already; its `method` is one that the family reads.

    Raises:
        RecipeError: for what no tool of this release does to this family, naming the field.
    """
    engine = recipe.engine
    family = FAMILIES[ARCHITECTURES[architecture_name(config)].family]
    script = contracts.load(family.contract, version)
    if quantization is not None:
        arguments, calibrates, tool = _script(config, recipe, family, script), False, script
        if engine.kv_cache is not None:
            raise RecipeError(
                f"a checkpoint that is quantized already ({quantization.method}) gets no {engine.kv_cache} KV cache",
                where="engine.kv_cache",
                fix="leave engine.kv_cache out, or take the unquantized checkpoint",
            )
    elif (option := _script_option(recipe)) is not None:
        tool, calibrates = script, option == "smoothquant"
        arguments = _script(config, recipe, family, script)
        if script.find("--" + option) is None:
            raise _lacks(script, "--" + option, f"engine.options.convert.{option}", "leave it out")
        if calibrates:
            _check_smoothquant(recipe)
            arguments |= _calibration(recipe, script)
    elif engine.kv_cache is None and (engine.precision in FLOATS or _weight_only(engine.precision, script)):
        tool, calibrates = script, False
        arguments = _script(config, recipe, family, script) | _weight_only(engine.precision, script)
    else:
        tool = contracts.load("quantize", version)
        calibrates = engine.kv_cache is not None or engine.precision in CALIBRATED
        arguments = _quantize(config, recipe, script, tool)
        if calibrates:
            arguments |= _calibration(recipe, tool)
    if not calibrates:
        refuse_unused(
            engine.calibration, "the checkpoint is quantized already" if quantization is not None else _measured(recipe)
        )
    merged = merge_options(arguments, engine.options.convert, tool, _governed(recipe), where="engine.options.convert")
    _check_companions(merged)
    if tool is not script:
        check_quantize(merged, config, recipe, family)
    return Conversion(family, tool.tool, merged, calibrates)


# ------------------------------------------------------------------------------------------------------------------
# The two tools
# ------------------------------------------------------------------------------------------------------------------


def _script(config: Mapping[str, Any], recipe: Recipe, family: Family, contract: Contract) -> Arguments:
    """convert_checkpoint.py without quantization."""
    arguments: Arguments = {
        _needed(contract, "--model_dir", "--model-dir"): places.CHECKPOINT,
        _needed(contract, "--output_dir", "--output-model-dir"): places.CONVERTED,
    }
    dtype = compute_type(config, recipe.engine.precision)
    if not contract.takes("--dtype", dtype):
        raise _lacks(contract, f"--dtype {dtype}", "engine.precision", "take another precision")
    arguments["--dtype"] = dtype
    arguments |= _parallel(recipe, contract)
    for name in ("--ckpt-type", "--ckpt_type"):
        if contract.takes(name, "hf"):
            arguments[name] = "hf"
    if contract.find("--workers") is not None:
        arguments["--workers"] = "1"  # threads, each of which may hold the whole model in memory
    if contract.find("--trust_remote_code") is not None and recipe.source.trust_remote_code:
        arguments["--trust_remote_code"] = None
    if family.name == "baichuan":
        arguments["--model_version"] = _baichuan_version(config)
    return arguments


def _quantize(config: Mapping[str, Any], recipe: Recipe, script: Contract, contract: Contract) -> Arguments:
    """quantize.py, which loads the model with transformers and exports with ModelOpt."""
    engine, name = recipe.engine, architecture_name(config)
    asked = f"{engine.precision} with a KV cache in {engine.kv_cache}" if engine.kv_cache else engine.precision
    field = "engine.kv_cache" if engine.kv_cache and engine.precision not in CALIBRATED else "engine.precision"
    if not ARCHITECTURES[name].modelopt:
        possible = [p for p in ("float16", "bfloat16", "int8", "int4") if p not in ("int8", "int4") or _weight_only(p, script)]
        raise RecipeError(
            f"TensorRT-LLM's quantize.py does not know {name}, so there is no {asked}",
            where=field,
            fix=f"use {', '.join(possible)} without engine.kv_cache, or engine.builder: llmapi",
        )
    if not contract.takes("--qformat", QFORMATS[engine.precision]):
        fix = "take a newer container, or engine.builder: llmapi"
        raise _lacks(contract, f"--qformat {QFORMATS[engine.precision]}", "engine.precision", fix)
    arguments: Arguments = {
        "--model_dir": places.CHECKPOINT,
        "--output_dir": places.CONVERTED,
        "--dtype": compute_type(config, engine.precision),
        "--qformat": QFORMATS[engine.precision],
    }
    if engine.kv_cache is not None:
        if not contract.takes("--kv_cache_dtype", engine.kv_cache):
            fix = "use fp8 or int8, or engine.builder: llmapi"
            raise _lacks(contract, f"--kv_cache_dtype {engine.kv_cache}", "engine.kv_cache", fix)
        arguments["--kv_cache_dtype"] = engine.kv_cache
    return arguments | _parallel(recipe, contract)


def _parallel(recipe: Recipe, contract: Contract) -> Arguments:
    parallelism = recipe.engine.parallelism
    arguments: Arguments = {}
    asked = {
        "tensor": (("--tp_size", "--world-size", "--world_size"), parallelism.tensor, 1),
        "pipeline": (("--pp_size",), parallelism.pipeline, 1),
        "context": (("--cp_size",), parallelism.context, 1),
        "moe_tensor": (("--moe_tp_size",), parallelism.moe_tensor, None),
        "moe_expert": (("--moe_ep_size",), parallelism.moe_expert, None),
    }
    for field, (spellings, size, nothing) in asked.items():
        name = contract.first(*spellings)
        if name is None and size not in (nothing, 1):
            raise _lacks(contract, spellings[0], f"engine.parallelism.{field}", f"leave engine.parallelism.{field} out")
        if name is not None and size is not None:
            arguments[name] = str(size)
    return arguments


def _weight_only(precision: str, contract: Contract) -> Arguments:
    """The flags for int8 or int4 weights, or nothing if the script has none."""
    if precision not in ("int8", "int4"):
        return {}
    if contract.find("--use_weight_only") is not None and contract.takes("--weight_only_precision", precision):
        return {"--use_weight_only": None, "--weight_only_precision": precision}
    if contract.takes("--use-weight-only-with-precision", precision):
        return {"--use-weight-only-with-precision": precision}
    return {}


def _calibration(recipe: Recipe, contract: Contract) -> Arguments:
    calibration = recipe.engine.calibration
    if calibration is None:
        what = f"a KV cache in {recipe.engine.kv_cache}" if recipe.engine.kv_cache else recipe.engine.precision
        raise RecipeError(
            f"{what} measures activations, and there are no texts to measure them with",
            where="engine.calibration",
            fix="name a local .jsonl or .txt file in engine.calibration.data; nothing is ever downloaded for this",
        )
    samples = calibration.samples
    if recipe.engine.precision in ("int4_awq", "w4a8_awq"):
        samples = min(samples, AWQ_SAMPLES)
    wanted = {
        "--calib_dataset": (None, places.CALIBRATION),
        "--calib_size": ("samples", str(samples)),
        "--calib_max_seq_length": ("max_length", str(calibration.max_length)),
        "--batch_size": ("batch_size", str(calibration.batch_size)),
    }
    for name, (field, _) in wanted.items():
        if field is not None and contract.find(name) is None and getattr(calibration, field) != _usual(field):
            raise _lacks(contract, name, f"engine.calibration.{field}", "leave it out: the tool decides that itself")
    return {name: value for name, (_, value) in wanted.items() if contract.find(name) is not None}


def _usual(field: str) -> object:
    return Calibration.model_fields[field].default


def _measured(recipe: Recipe) -> str:
    option = _script_option(recipe)
    return f"{recipe.engine.precision} {f'with {option} ' if option else ''}measures no activations beforehand"


# ------------------------------------------------------------------------------------------------------------------
# Details
# ------------------------------------------------------------------------------------------------------------------


def _script_option(recipe: Recipe) -> str | None:
    """The option by which the recipe prefers the script's own way of quantizing, if it names one."""
    named = [key for key in recipe.engine.options.convert if key.lstrip("-").replace("-", "_") in _BY_SCRIPT]
    for key in named:
        plain = key.lstrip("-").replace("-", "_")
        if recipe.engine.precision != _BY_SCRIPT[plain]:
            raise RecipeError(
                f"{plain} makes {_BY_SCRIPT[plain]}, and the recipe asks for {recipe.engine.precision}",
                where=f"engine.options.convert.{key}",
                fix=f"set engine.precision to {_BY_SCRIPT[plain]}, or leave it out",
            )
        if recipe.engine.kv_cache is not None:
            raise RecipeError(
                f"{plain} goes by the conversion script, and a KV cache in {recipe.engine.kv_cache} by quantize.py",
                where=f"engine.options.convert.{key}",
                fix="leave one of them out",
            )
        return plain if recipe.engine.options.convert[key] is not False else None
    return None


def _check_smoothquant(recipe: Recipe) -> None:
    """The scripts give SmoothQuant a `Mapping` of tp x pp ranks together with cp_size, which contradict each other."""
    context = recipe.engine.parallelism.context
    if context > 1:
        raise RecipeError(
            f"the conversion scripts make no SmoothQuant for context parallelism, and the recipe asks for {context}",
            where="engine.options.convert.smoothquant",
            fix="leave it out, so that quantize.py makes int8_sq, or use engine.parallelism.tensor instead",
        )


def _governed(recipe: Recipe) -> dict[str, str]:
    if recipe.engine.precision in FLOATS:
        return {**GOVERNED, "dtype": "use engine.precision"}
    return GOVERNED


def _check_companions(arguments: Mapping[str, str | None]) -> None:
    """Flags that do nothing without another one, which the scripts do not say."""
    for name, partner in (
        ("--per_channel", "--smoothquant"),
        ("--per_token", "--smoothquant"),
        ("--use_meta_fp8_rowwise_recipe", "--use_fp8_rowwise"),
        ("--disable_weight_only_quant_plugin", "--use_weight_only"),
        ("--embedding_sharding_dim", "--use_parallel_embedding"),
        *((f"--{name}", "--medusa_model_dir") for name in _MEDUSA),
    ):
        if name in arguments and partner not in arguments:
            plain = name.lstrip("-")
            raise RecipeError(
                f"{name} has no effect without {partner}", where=f"engine.options.convert.{plain}", fix="leave it out"
            )
    for one, other in (("--load_by_shard", "--smoothquant"), ("--load_by_shard", "--load_model_on_cpu")):
        if one in arguments and other in arguments:
            raise RecipeError(
                f"{one} and {other} exclude each other: the script silently takes the first",
                where=f"engine.options.convert.{(one if other == '--smoothquant' else other).lstrip('-')}",
                fix="leave one of them out",
            )


_MEDUSA = ("num_medusa_heads", "num_medusa_layers", "max_draft_len", "medusa_hidden_act", "quant_medusa_head")


def _needed(contract: Contract, *spellings: str) -> str:
    name = contract.first(*spellings)
    assert name is not None, f"{contract.tool} {contract.version} has none of {spellings}"
    return name


def _lacks(contract: Contract, what: str, where: str, fix: str) -> RecipeError:
    tool = contract.tool.replace("convert-", "the conversion script of ")
    return RecipeError(f"{tool} is not known to have {what} in TensorRT-LLM {contract.version}", where=where, fix=fix)


def _baichuan_version(config: Mapping[str, Any]) -> str:
    """The script's name of the model; it would take Baichuan 1 13B for all of them (its README names the four)."""
    generation = "v2" if config.get("vocab_size") == 125696 else "v1"
    return f"{generation}_{'7b' if config.get('hidden_size') == 4096 else '13b'}"
