"""ModelOpt's conversions on the GPU and on the CPU: the same checkpoints, the same texts, the tensors compared.

Two processes, one that sees the GPU and one that does not, each does all cases in order (`worker`); a case that fails is
written down and the next begins. One more conversion goes the way that a recipe goes, a process and all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.gpu_check.compare import compare
from scripts.gpu_check.parts import TEXT_END, Settings

ROOT = Path(__file__).resolve().parents[2]

SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
}
"""60 million parameters, 120 MB. Blocks of 128 fit twice."""

TINY: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 384,
    "max_position_embeddings": 256,
}

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 64},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
}


WORDS = ("the", "quick", "brown", "fox", "once", "upon", "a", "time", "there", "was", "small", "model", "that", "could", "answer")


@dataclass(frozen=True)
class Case:
    """One conversion."""

    checkpoint: str
    precision: str
    form: str = "tensorrt_llm"
    kv_cache: str | None = None
    tensor: int = 1

    @property
    def name(self) -> str:
        parts = [self.checkpoint, self.precision]
        if self.kv_cache is not None:
            parts.append(f"kv-{self.kv_cache}")
        if self.tensor > 1:
            parts.append(f"tp{self.tensor}")
        return " ".join([*parts, *(["hf"] if self.form == "hugging_face" else [])])


CASES = (
    Case("llama", "fp8"),
    Case("llama", "int8_sq"),
    Case("llama", "nvfp4"),
    Case("llama", "bfloat16"),
    Case("llama", "fp8", kv_cache="fp8"),
    Case("llama", "bfloat16", kv_cache="int8"),
    Case("llama", "fp8", "hugging_face", kv_cache="fp8"),
    Case("llama", "nvfp4", "hugging_face"),
    Case("llama", "int4_awq"),
    Case("llama", "w4a8_awq"),
    Case("qwen2", "fp8", tensor=2),
    Case("qwen3", "fp8", "hugging_face"),
    Case("llama", "int8"),
    Case("llama", "int4"),
    Case("llama", "int8_sq", "hugging_face"),
    Case("llama", "nvfp4", "hugging_face", kv_cache="nvfp4"),
    Case("qwen2", "int4_awq", tensor=2),
    Case("qwen3", "nvfp4"),
    Case("llama", "int4_awq", "hugging_face"),
)
"""The most important first: what no time is left for is the end."""

SPARE = 30.0
"""Seconds kept for the conversion that goes the whole way, at the end."""


def convert(settings: Settings) -> dict[str, Any]:
    from enginepress.engines import modelopt
    from tests.engines.checkpoints import make_checkpoint

    found: dict[str, Any] = {"versions": modelopt.versions(), "cases": {}}
    sizes = TINY if settings.tiny else SIZES
    for number, (family, extra) in enumerate(CHECKPOINTS.items()):
        more = {key: 32 if settings.tiny and key == "head_dim" else value for key, value in extra.items()}
        make_checkpoint(settings.scratch / family, family, seed=number, dtype="bfloat16", **sizes, **more)
    texts = _texts(settings.scratch)
    sides = {"gpu": settings.device, "cpu": "cpu"}
    orders = {side: _order(settings, side, texts) for side in sides}
    processes = {side: _worker(orders[side], device, settings) for side, device in sides.items()}
    pending = list(_chosen(settings))
    while pending and settings.left() > SPARE:
        done = {side: _results(settings, side) for side in sides}
        ended = all(process.poll() is not None for process in processes.values())
        ready = [case for case in pending if ended or all(case.name in rows for rows in done.values())]
        for case in ready:
            found["cases"][case.name] = _case(settings, case, {side: done[side].get(case.name) for side in sides})
            pending.remove(case)
        if not ready:
            time.sleep(0.5)
    for side, process in processes.items():
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.returncode != 0:
            found.setdefault("logs", {})[side] = f"status {process.returncode}: {_tail(settings.scratch / f'{side}.log')}"
    found["left_out"] = [case.name for case in pending]
    found["whole_way"] = _whole_way(settings, texts) if settings.left() > 0 else {"ok": False, "error": "no time was left"}
    found["ok"] = found["whole_way"]["ok"] and not pending and all(case["ok"] for case in found["cases"].values())
    return found


def _chosen(settings: Settings) -> tuple[Case, ...]:
    return CASES[settings.skipped :][: settings.cases]


def _texts(folder: Path) -> Path:
    """Words in many orders: 32 texts of 64 tokens and more."""
    lines = [" ".join(WORDS[(i * 7 + j * (i + 3) + j * j) % len(WORDS)] for j in range(48)) for i in range(32)]
    path = folder / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def _recipe(case: Case, texts: Path) -> Any:
    from enginepress.engines.modelopt.support import FORMATS
    from enginepress.recipe import Recipe

    builder = "tensorrt_llm" if case.form == "tensorrt_llm" else "llmapi"
    engine: dict[str, Any] = {
        "builder": builder,
        "precision": case.precision,
        "kv_cache": case.kv_cache,
        "parallelism": {"tensor": case.tensor},
    }
    if builder == "tensorrt_llm":
        engine["converter"] = "modelopt"
    if case.kv_cache or FORMATS[case.precision].calibrated:
        engine["calibration"] = {"data": str(texts), "samples": 32, "max_length": 128, "batch_size": 16}
    return Recipe.model_validate({"name": "check", "source": "file:///checkpoint", "stores": ["file:///store"], "engine": engine})


def _order(settings: Settings, side: str, texts: Path) -> Path:
    """The jobs of one side, as a file for its process."""
    from enginepress.engines import modelopt

    jobs = []
    for case in _chosen(settings):
        checkpoint, output = settings.scratch / case.checkpoint, settings.scratch / side / str(CASES.index(case))
        config = json.loads((checkpoint / "config.json").read_text())
        recipe = _recipe(case, texts)
        check = modelopt.check_tensorrt_llm if case.form == "tensorrt_llm" else modelopt.check_hugging_face
        check(config, recipe)
        jobs.append({"name": case.name, "job": modelopt._job(case.form, checkpoint, output, config, recipe)})  # type: ignore[arg-type]
    path = settings.scratch / f"{side}.json"
    path.write_text(json.dumps(jobs))
    return path


def _worker(order: Path, device: str, settings: Settings) -> subprocess.Popen[bytes]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    argv = [sys.executable, "-m", "scripts.gpu_check.worker", str(order)]
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    with open(order.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)


def _results(settings: Settings, side: str) -> dict[str, Any]:
    path = settings.scratch / f"{side}.results.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def _case(settings: Settings, case: Case, done: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, row in done.items():
        found[side] = (
            {key: value for key, value in row.items() if key != "name"} if row else {"ok": False, "error": "was not reached"}
        )
    folders = {side: settings.scratch / side / str(CASES.index(case)) for side in done}
    if all(row and row["ok"] for row in done.values()):
        found["compared"] = compare(folders["gpu"], folders["cpu"])
        found["bytes"] = sum(p.stat().st_size for p in folders["gpu"].glob("*.safetensors"))
        found["planned_bytes"] = _planned(settings, case)
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    compared = found.get("compared")
    found["ok"] = compared is not None and _is_same(compared)
    return found


def _is_same(compared: Mapping[str, Any]) -> bool:
    """The same files, configs, names, types and shapes, and no number that is far from the other's."""
    kinds = compared["tensors"]["kinds"].values()
    return (
        compared["same_files"]
        and not any(compared["configs"].values())
        and not compared["tensors"]["only_on_one_side"]
        and not any(kind["wrong_shape"] for kind in kinds)
        and all(kind["decoded_rel"] < 0.2 for kind in kinds)
    )


def _planned(settings: Settings, case: Case) -> int:
    """What the plan says of all ranks' weights in this precision."""
    from enginepress.engines.architecture import read_shape
    from enginepress.engines.fit.weights import weights_of

    config = json.loads((settings.scratch / case.checkpoint / "config.json").read_text())
    return weights_of(read_shape(config), _recipe(case, settings.scratch / "calibration.jsonl"), None).ranks


def _whole_way(settings: Settings, texts: Path) -> dict[str, Any]:
    """As a recipe goes: checked, a process of its own with its environment, verified, and checked as a checkpoint."""
    from enginepress.engines import modelopt
    from enginepress.errors import EnginepressError

    output, log = settings.scratch / "whole", settings.scratch / "whole.log"
    output.mkdir()
    start = time.monotonic()
    # The package may not be installed here, and ModelOpt's process runs in a folder of its own.
    changed = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if settings.device == "cpu":
        changed["CUDA_VISIBLE_DEVICES"] = ""
    before = {name: os.environ.get(name) for name in changed}
    try:
        os.environ.update(changed)
        modelopt.to_tensorrt_llm(settings.scratch / "llama", output, _recipe(Case("llama", "fp8", kv_cache="fp8"), texts), log)
        found: dict[str, Any] = {"ok": True, "files": sorted(p.name for p in output.iterdir())}
    except EnginepressError as error:
        found = {"ok": False, "error": f"{error} ({error.fix})"[:TEXT_END]}
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(output, ignore_errors=True)
    return {**found, "seconds": round(time.monotonic() - start, 2), "log": _tail(log)}


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-TEXT_END:] if path.is_file() else ""
