"""Peak memory of a conversion by ModelOpt, above that of the same process after its imports.

A checkpoint of more than 2 GB with random weights is made in a temporary folder, converted in several ways, and removed.
Peak and start are the kernel's VmHWM of the converting process, which counts mapped files too.

python -m benchmarks.modelopt [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.engines import modelopt
from enginepress.engines.modelopt.support import FORMATS
from enginepress.process import run_logged
from enginepress.recipe import Recipe
from tests.engines.checkpoints import write_tokenizer

LIMIT = 2.2

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 18,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
"""1.2 thousand million parameters, 2.5 GB."""

CASES = (
    ("bfloat16", 1, "to_tensorrt_llm"),
    ("bfloat16", 2, "to_tensorrt_llm"),
    ("fp8", 2, "to_tensorrt_llm"),
    ("fp8", 1, "to_hugging_face"),
)
"""AWQ takes less memory than FP8 and, on a CPU, ten minutes more: docs/modelopt.md has it."""

_MEASURED = """
import json, sys
from enginepress.engines.modelopt import driver, verify
import torch, transformers, modelopt.torch.quantization, modelopt.torch.export
import transformers.models.llama.modeling_llama
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
start = peak()
driver.main()
print(json.dumps({"start": start, "peak": peak()}))
"""


@dataclass(frozen=True)
class Memory:
    """One conversion. All in bytes."""

    name: str
    checkpoint: int
    start: int
    peak: int

    @property
    def ratio(self) -> float:
        return (self.peak - self.start) / self.checkpoint


def peaks(folder: Path, cases: Sequence[tuple[str, int, str]] = CASES) -> Iterator[Memory]:
    """Measures each case once: memory does not vary as time does."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        checkpoint = make_checkpoint(Path(scratch) / "checkpoint")
        for case in cases:
            yield _measured(checkpoint, Path(scratch), *case)


def rows(folder: Path) -> list[tuple[str, ...]]:
    """For the table in docs/benchmarks.md: the worst case."""
    found = list(peaks(folder))
    worst = max(found, key=lambda memory: memory.ratio)
    return [
        (
            f"peak memory of a conversion by ModelOpt, {worst.name}",
            f"{(worst.peak - worst.start) / 1e9:.2f} GB above the {worst.start / 1e9:.2f} GB of its imports",
            f"the checkpoint: {worst.checkpoint / 1e9:.2f} GB",
            f"{worst.ratio:.2f} ({', '.join(f'{m.name}: {m.ratio:.2f}' for m in found)})",
            f"at most {LIMIT}",
        )
    ]


def make_checkpoint(folder: Path, shards: int = 3) -> Path:
    """Random weights in bfloat16, written a tensor at a time."""
    import numpy as np

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder)
    generator = np.random.default_rng(0)
    shapes = dict(_shapes())
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = list(shapes)[number::shards]
        index.update(dict.fromkeys(part, file))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in part:
            size = 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            end += size
        head = json.dumps(header).encode()
        with open(folder / file, "wb") as stream:
            stream.write(len(head).to_bytes(8, "little") + head)
            for name in part:
                noise = generator.standard_normal(shapes[name], dtype=np.float32)
                values = noise * 0.02 if len(shapes[name]) == 2 else 1 + 0.1 * noise
                stream.write((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _shapes() -> Iterator[tuple[str, list[int]]]:
    hidden, inner, keys = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    yield "model.embed_tokens.weight", [CONFIG["vocab_size"], hidden]
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", [hidden]
        for name, rows_, columns in (("q", hidden, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, hidden)):
            yield f"{prefix}.self_attn.{name}_proj.weight", [rows_, columns]
        yield f"{prefix}.post_attention_layernorm.weight", [hidden]
        for name, rows_, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"{prefix}.mlp.{name}_proj.weight", [rows_, columns]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [CONFIG["vocab_size"], hidden]


def _measured(checkpoint: Path, scratch: Path, precision: str, tensor: int, form: str) -> Memory:
    name = (
        f"{precision} on {tensor} GPU{'s' if tensor > 1 else ''}"
        if form == "to_tensorrt_llm"
        else f"{precision} in Hugging Face form"
    )
    output, log, data = scratch / "output", scratch / "log", scratch / "calibration.txt"
    data.write_text("\n".join(f"once upon a time there was a small model, number {n}" for n in range(2)))
    texts = {"calibration": {"data": str(data), "samples": 2, "max_length": 512}} if FORMATS[precision].calibrated else {}
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "source": "file:///checkpoint",
            "stores": ["file:///store"],
            "engine": {
                "builder": "tensorrt_llm",
                "precision": precision,
                "parallelism": {"tensor": tensor},
                **texts,
            },
        }
    )
    said: list[str] = []

    def measure(argv: list[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> int:
        return run_logged([argv[0], "-c", _MEASURED, *argv[3:]], log=log, env=env, cwd=cwd, on_line=said.append)

    run, modelopt.run_logged = modelopt.run_logged, measure  # type: ignore[assignment]
    output.mkdir()
    try:
        getattr(modelopt, form)(checkpoint, output, recipe, log)
    finally:
        modelopt.run_logged = run
        for file in output.iterdir():
            file.unlink()
        output.rmdir()
    numbers = json.loads(said[-1])
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    return Memory(name, size, numbers["start"], numbers["peak"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="has room for 8 GB")
    arguments = parser.parse_args()
    for memory in peaks(arguments.folder):
        print(
            f"{memory.name}: {(memory.peak - memory.start) / 1e9:.2f} GB above {memory.start / 1e9:.2f} GB, "
            f"{memory.ratio:.2f} of the checkpoint's {memory.checkpoint / 1e9:.2f} GB"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
