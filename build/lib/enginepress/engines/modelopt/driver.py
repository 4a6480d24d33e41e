"""The conversion itself, run as a process of its own: `python -m enginepress.engines.modelopt.driver job.json`.

The only module that imports ModelOpt. It loads the checkpoint, calibrates if the job asks for it, exports, puts the config
right and compares what was written with the checkpoint. Whatever goes wrong ends it with a status other than 0.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginepress.engines.modelopt.fields import inverse_frequencies, model_fields, shape_fields
from enginepress.engines.modelopt.hugging_face import finish_config
from enginepress.engines.modelopt.tensorrt_llm_config import complete_config
from enginepress.errors import BuildError, EnginepressError

SEED = 1234

FINISHED = "enginepress: done"
"""The last line of a run that went well."""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        convert(job)
    except EnginepressError as error:
        sys.exit(f"enginepress error: {error}" + (f" ({error.fix})" if error.fix else ""))
    print(FINISHED, flush=True)


def convert(job: Mapping[str, Any]) -> None:
    """Does one job; its keys are those that `enginepress.engines.modelopt._job` writes."""
    import torch

    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    torch.manual_seed(SEED)
    model = _load(checkpoint, job)
    _check_model(model, job)
    if job["quantization"] is not None or job["kv_cache"] is not None:
        model = _quantize(model, checkpoint, job)
    if job["form"] == "tensorrt_llm":
        _export_tensorrt_llm(model, output, job)
    else:
        _export_hugging_face(model, output, job)
    del model
    gc.collect()
    from enginepress.engines.modelopt import verify

    print("enginepress: comparing with the checkpoint", flush=True)
    if job["form"] == "tensorrt_llm":
        verify.verify_tensorrt_llm(checkpoint, output)
    else:
        finish_config(checkpoint, output, job["dtype"])
        verify.verify_hugging_face(checkpoint, output)


# ------------------------------------------------------------------------------------------------------------------
# Loading
# ------------------------------------------------------------------------------------------------------------------


def _load(checkpoint: Path, job: Mapping[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model, report = loader.from_pretrained(
        checkpoint,
        dtype=getattr(torch, job["dtype"]),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in report[kind]):
            raise BuildError(
                f"the checkpoint lacks weights that config.json asks for, or has them in another shape: {', '.join(names[:5])}",
                where=str(checkpoint),
                fix="check that all its files were published, and that config.json belongs to them",
            )
    model.eval()
    if torch.cuda.is_available():
        model.to("cuda")
    return model


def _check_model(model: Any, job: Mapping[str, Any]) -> None:
    """What transformers made of config.json is what we made of it; for the rotary embedding, by its numbers."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    read = model_fields(config) if job["form"] == "tensorrt_llm" else shape_fields(config)
    for name, value in job["fields"].items():
        if read.get(name) != value:
            raise BuildError(f"'{name}' is {value!r} in config.json, and transformers reads it as {read.get(name)!r}")
    if job["form"] != "tensorrt_llm":
        return
    rotary = model.model.rotary_emb
    ours = inverse_frequencies(job["fields"], job["fields"]["head_size"])
    theirs = rotary.inv_freq.double().tolist()
    if len(ours) != len(theirs) or any(abs(a - b) > 1e-5 * abs(b) for a, b in zip(ours, theirs, strict=True)):
        raise BuildError("the rotary embedding would not come out right: transformers computes other frequencies")
    if rotary.attention_scaling != 1.0:
        raise BuildError(f"the rotary embedding would not come out right: it scales attention by {rotary.attention_scaling}")


# ------------------------------------------------------------------------------------------------------------------
# Quantization
# ------------------------------------------------------------------------------------------------------------------

_KV_BITS: dict[str, dict[str, Any]] = {"fp8": {"num_bits": (4, 3), "axis": None}, "int8": {"num_bits": 8, "axis": None}}


def _quantize(model: Any, checkpoint: Path, job: Mapping[str, Any]) -> Any:
    import modelopt.torch.quantization as mtq
    import torch

    off: dict[str, Any] = {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": "max"}
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, job["quantization"]) if job["quantization"] else off)
    if job["kv_cache"] == "nvfp4":
        config["quant_cfg"] += copy.deepcopy(mtq.NVFP4_KV_CFG["quant_cfg"])
    elif job["kv_cache"] is not None:
        config["quant_cfg"].append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": dict(_KV_BITS[job["kv_cache"]])})

    def calibrate(model: Any) -> None:
        for number, batch in enumerate(_batches(checkpoint, job)):
            # The head is not quantized: its logits for every token would only take memory.
            model(**{name: tensor.to(model.device) for name, tensor in batch.items()}, use_cache=False, logits_to_keep=1)
            if number % 16 == 0:
                print(f"enginepress: calibration batch {number + 1}", flush=True)

    with torch.inference_mode():
        return mtq.quantize(model, config, calibrate)


def _batches(checkpoint: Path, job: Mapping[str, Any]) -> Iterator[Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    texts: list[str] = job["texts"]
    size = job["batch_size"]
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        yield tokenizer(part, return_tensors="pt", padding=size > 1, truncation=True, max_length=job["max_length"]).data


# ------------------------------------------------------------------------------------------------------------------
# Export
# ------------------------------------------------------------------------------------------------------------------


def _export_tensorrt_llm(model: Any, output: Path, job: Mapping[str, Any]) -> None:
    import torch
    from modelopt.torch.export.model_config_export import torch_to_tensorrt_llm_checkpoint

    from enginepress.engines.modelopt.tensor_files import write_tensors

    configs = []
    with torch.inference_mode():
        ranks = torch_to_tensorrt_llm_checkpoint(
            model, job["decoder"], getattr(torch, job["dtype"]), job["tensor"], job["pipeline"]
        )
        for config, weights, _ in ranks:
            rank = config["rank"]
            # TensorRT-LLM's parameters have the shape (1,) where ModelOpt has a number.
            write_tensors(
                output / f"rank{rank}.safetensors", {n: w.reshape(1) if w.dim() == 0 else w for n, w in weights.items()}
            )
            weights.clear()
            configs.append(config)
            print(f"enginepress: rank {rank} written", flush=True)
    complete = complete_config(configs, job)
    (output / "config.json").write_text(json.dumps(complete, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _export_hugging_face(model: Any, output: Path, job: Mapping[str, Any]) -> None:
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(model, dtype=getattr(torch, job["dtype"]), export_dir=output)


if __name__ == "__main__":
    main()
