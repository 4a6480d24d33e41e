"""What the stand-in executables do. Run as `python -m`-less scripts that `image.py` writes; imports nothing heavy.

STAND_IN_ENGINE names a folder with an engine that the stand-in for Triton's backend can run (tests/serving/backends).
STAND_IN_VERSION and STAND_IN_READING say which release is stood in for; STAND_IN_SAYS and STAND_IN_STATUS make a tool print
what the real one prints when it fails, and end so.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

from tests.engines.stand_ins.parser import make_parser

NO_PIPELINE = ("phi", "mamba", "glm", "opt", "bloom", "gptneox")
CALIBRATED = ("fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq")


def main(tool: str) -> None:
    version = os.environ["STAND_IN_VERSION"]
    print(f"[TensorRT-LLM] TensorRT-LLM version: {version}")
    leaked = [name for name in os.environ if ("TOKEN" in name and name != "TOKENIZERS_PARALLELISM") or "SECRET" in name]
    assert not leaked, f"the tool can see {leaked}"
    assert os.environ.get("HF_HUB_OFFLINE") == "1", "the tool could download"
    readings = dict(pair.split("=") for pair in os.environ["STAND_IN_READINGS"].split(";"))
    arguments = vars(make_parser(tool, readings.get(tool, readings["*"])).parse_args())
    if says := os.environ.get("STAND_IN_SAYS"):
        print(says, flush=True)
        status = int(os.environ.get("STAND_IN_STATUS", "1"))
        if status < 0:
            os.kill(os.getpid(), -status)
            signal.pause()
        sys.exit(status)
    if tool == "trtllm-build":
        build(arguments, version)
    else:
        convert(tool, arguments)


def convert(tool: str, a: dict[str, Any]) -> None:
    """Stands in for a convert_checkpoint.py, or for quantize.py."""
    family = tool.removeprefix("convert-")
    tensor = a.get("tp_size") or a.get("world_size") or 1
    pipeline, context = a.get("pp_size") or 1, a.get("cp_size") or 1
    assert pipeline == 1 or family not in NO_PIPELINE, "Pipeline parallelism is not supported."
    if a.get("moe_tp_size") is not None:
        moe_tensor = a["moe_tp_size"] if a["moe_tp_size"] > 0 else tensor // max(a["moe_ep_size"], 1)
        moe_expert = a["moe_ep_size"] if a["moe_ep_size"] > 0 else tensor // moe_tensor
        assert moe_tensor * moe_expert == tensor, "moe_tp_size * moe_ep_size must equal to tp_size"
    source = Path(a["model_dir"])
    assert "mpt" not in str(source), "quantize.py takes such a path for MPT"
    config = json.loads((source / "config.json").read_text())
    if (tool == "quantize" and (a["qformat"] in CALIBRATED or a["kv_cache_dtype"])) or a.get("smoothquant"):
        folder = Path(a["calib_dataset"])
        if not folder.is_dir() or "cnn_dailymail" in str(folder):
            raise NotImplementedError(f"Unsupported dataset name or local repo directory: {folder}.")
        texts = [json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()]
        assert texts, "nothing to calibrate with"
    output = Path(a.get("output_dir") or a["output_model_dir"])
    world = tensor * pipeline * context
    algorithm = {"int8_wo": "W8A16", "int4_wo": "W4A16", "fp8": "FP8", "nvfp4": "NVFP4", "int4_awq": "W4A16_AWQ"}.get(
        a.get("qformat") or ""
    )
    if a.get("use_weight_only"):
        algorithm = {"int8": "W8A16", "int4": "W4A16"}[a["weight_only_precision"]]
    written = {
        "architecture": config["architectures"][0],
        "dtype": a["dtype"],
        "vocab_size": config.get("vocab_size", 8),
        "hidden_size": config.get("hidden_size", 4),
        "num_hidden_layers": config.get("num_hidden_layers", 1),
        "num_attention_heads": config.get("num_attention_heads", 1),
        "num_key_value_heads": config.get("num_key_value_heads"),
        "intermediate_size": config.get("intermediate_size"),
        "max_position_embeddings": config.get("max_position_embeddings"),
        "hidden_act": "silu",
        "rotary_base": float(os.environ.get("STAND_IN_ROTARY_BASE", config.get("rope_theta", 10000.0))),
        "qwen_type": "qwen2" if family == "qwen" or "Qwen" in config["architectures"][0] else None,
        "moe": {"num_experts": config.get("num_local_experts", 0)},
        "rotary_scaling": config.get("rope_scaling"),
        "mapping": {"world_size": world, "tp_size": tensor, "pp_size": pipeline, "cp_size": context},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": (a.get("kv_cache_dtype") or "").upper() or None},
    }
    for rank in range(tensor * pipeline):  # context-parallel ranks share a file
        write_tensors(output / f"rank{rank}.safetensors", tensors_of(written, rank))
    (output / "config.json").write_text(json.dumps(written))
    print("Total time of converting checkpoints: 00:00:01")


def tensors_of(config: dict[str, Any], rank: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Types and shapes that config.json tells of, and tables of positions as the real scripts save them; of a family whose layout
    is not known, a few."""
    from enginepress.engines.trtllm_layout import is_known, read_shape, tensors_of_rank  # here: `--help` is to be quick

    tables: dict[str, tuple[str, tuple[int, ...]]] = {"rotary_inv_freq": ("F32", (4,)), "embed_positions": ("F32", (1, 8))}
    algorithm = config["quantization"]["quant_algo"]
    if is_known(config["architecture"], algorithm) and not (config["moe"]["num_experts"] and algorithm):
        needs = tensors_of_rank(read_shape(config), rank)
        lost = os.environ.get("STAND_IN_LOSES_TENSOR")
        return {**tables, **{name: (need.dtypes[0], need.shapes[0]) for name, need in needs.items() if name != lost}}
    qkv = "transformer.layers.0.attention.qkv.weight"
    cache = {qkv.replace("qkv.weight", "kv_cache_scaling_factor"): ("F32", (1,))}
    quantized = config["quantization"]["kv_cache_quant_algo"] is not None
    return {**tables, qkv: ("F16", (12, 4)), "lm_head.weight": ("F16", (8, 4)), **(cache if quantized else {})}


def build(a: dict[str, Any], version: str) -> None:
    """Stands in for trtllm-build."""
    source, output = Path(a["checkpoint_dir"]), Path(a["output_dir"])
    config = json.loads((source / "config.json").read_text())
    mapping, cache = config["mapping"], config["quantization"]["kv_cache_quant_algo"]
    if a["use_paged_context_fmha"] == "enable" and cache == "INT8":
        raise RuntimeError("Paged Context FMHA doesn't work with int8 kv cache currently.")
    if a["use_paged_context_fmha"] == "enable" and cache == "FP8" and config["quantization"]["quant_algo"] != "FP8":
        raise RuntimeError("FP8 Paged Context FMHA only works with fp8 quantization workflow currently.")
    if a["multiple_profiles"] == "enable" and a["opt_num_tokens"] is not None:
        raise RuntimeError("multiple_profiles and opt_num_tokens exclude each other")
    for rank in range(mapping["world_size"]):
        tensor = mapping["tp_size"]
        shared = rank % tensor + rank // (tensor * mapping["cp_size"]) * tensor  # as `from_checkpoint` does it
        assert (source / f"rank{shared}.safetensors").is_file(), f"rank{shared}.safetensors is missing"
        if str(rank) != os.environ.get("STAND_IN_LOSES_RANK"):
            (output / f"rank{rank}.engine").write_bytes(b"ftrt" + os.urandom(60))
    names = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width", "kv_cache_type")
    limits = {name: a[name] for name in names}
    if "STAND_IN_MAX_BATCH_SIZE" in os.environ:
        limits["max_batch_size"] = int(os.environ["STAND_IN_MAX_BATCH_SIZE"])
    plugins = {name: a[name] for name in ("gemm_plugin", "tokens_per_block", "use_paged_context_fmha", "reduce_fusion")}
    written = {
        "version": os.environ.get("STAND_IN_WRITES_VERSION", version),
        "pretrained_config": config,
        "build_config": {**limits, "plugin_config": plugins, "input_timing_cache": a["input_timing_cache"]},
    }
    (output / "config.json").write_text(json.dumps(written))
    if runs := os.environ.get("STAND_IN_ENGINE"):
        for file in Path(runs).iterdir():
            (output / file.name).hardlink_to(file)
    known = Path(a["input_timing_cache"])
    Path(a["output_timing_cache"]).write_bytes((known.read_bytes() if known.exists() else b"") + b"timing;")
    print("[TRT-LLM] [I] Total time of building all engines: 00:00:01")


def nvidia_smi() -> None:
    """Stands in for nvidia-smi: STAND_IN_GPUS is name,compute capability,driver;…"""
    rows = [row.split(",") for row in os.environ["STAND_IN_GPUS"].split(";") if row]
    if not rows:
        print("No devices were found")
        sys.exit(6)
    for number, (name, capability, driver) in enumerate(rows):
        if "-L" in sys.argv:
            print(f"GPU {number}: {name} (UUID: GPU-{number:04})")
            for device, profile in enumerate(os.environ.get("STAND_IN_MIG", "").split()):
                print(f"  MIG {profile}     Device  {device}: (UUID: MIG-{number:04}-{device})")
        else:
            print(f"{name}, {capability}, {driver}")


def write_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file with zeros."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = {"F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
