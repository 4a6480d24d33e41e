"""Runs on a GPU what only a GPU can show, and writes what came out into one JSON file. For maintainers; docs/gpu.md has results.

    python scripts/check_on_gpu.py --out DIR [--only machine,memory,convert] [--minutes 6] [--device cpu --tiny]

    machine    GPU, driver and memory as our readers, nvidia-smi, torch and gpus.yaml say them
    memory     the plan's weights, KV cache, activations and overhead beside what torch allocates
    convert    every precision by ModelOpt on the GPU and on the CPU, the tensors compared

Needs torch, transformers, safetensors and nvidia-modelopt, no network, and about 4 GB in DIR. A part that fails is written
down with its traceback, and the others go on. With `--device cpu` both sides are the CPU, which tests this script.
Ends with status 1 if a part failed or something differed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.gpu_check.convert import convert  # noqa: E402
from scripts.gpu_check.machine import machine  # noqa: E402
from scripts.gpu_check.memory import memory  # noqa: E402
from scripts.gpu_check.parts import Settings, isolated  # noqa: E402

PARTS = {"machine": machine, "memory": memory, "convert": convert}


def main() -> int:
    arguments = _arguments()
    out: Path = arguments.out
    scratch = out / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    start = time.monotonic()
    settings = Settings(
        arguments.device, arguments.tiny, scratch, start + 60 * arguments.minutes - 10, arguments.cases, arguments.skip
    )
    found: dict[str, Any] = {"device": arguments.device, "tiny": arguments.tiny, "parts": {}}
    try:
        for name in arguments.only:
            found["parts"][name] = isolated(PARTS[name], settings)
            found["seconds"] = round(time.monotonic() - start, 1)
            # Written after each part: whoever is ended by a clock leaves what there was.
            (out / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _print(found)
    return 0 if all(part["ok"] for part in found["parts"].values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_check.json and for scratch")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="parts, by commas")
    parser.add_argument("--minutes", type=float, default=6.0, help="what is not done by then is left out")
    parser.add_argument("--cases", type=int, default=100, help="at most so many conversions, the most important first")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of them, which an earlier run has done")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of this script")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.only if name not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    return arguments


def _print(found: dict[str, Any]) -> None:
    for name, part in found["parts"].items():
        print(f"{name}: {'ok' if part['ok'] else 'NOT OK'} in {part['seconds']} s {part.get('error', '')}")
    cases = found["parts"].get("convert", {}).get("cases", {})
    if cases:
        print(f"{'conversion':32} {'GPU s':>7} {'CPU s':>7} {'GPU MiB':>8} {'equal':>7} {'decoded':>8} {'scales':>8}")
    for name, case in cases.items():
        kinds = case.get("compared", {}).get("tensors", {}).get("kinds", {})
        weights = [kind for what, kind in kinds.items() if what.startswith("weight ")]
        scales = [kind["max_rel"] for what, kind in kinds.items() if "scal" in what]
        numbers = sum(kind["numbers"] for kind in weights)
        equal = sum(kind["numbers"] * kind["equal_share"] for kind in weights) / numbers if numbers else float("nan")
        decoded = max((kind["decoded_rel"] for kind in weights), default=float("nan"))
        gpu, cpu = case["gpu"], case["cpu"]
        times = f"{gpu.get('seconds', '-'):>7} {cpu.get('seconds', '-'):>7} {gpu.get('peak_gpu_mib', '-'):>8}"
        values = f"{equal:>7.4f} {decoded:>8.1e} {max(scales, default=0.0):>8.1e}"
        print(f"{name:32} {times} {values} {'' if case['ok'] else 'NOT OK'} {gpu.get('error', '')[:100]}")
    for name, model in found["parts"].get("memory", {}).get("models", {}).items():
        rows = {key: row["ratio"] for key, row in model.items() if isinstance(row, dict) and "ratio" in row}
        print(f"{name:32} planned / measured: " + ", ".join(f"{key} {ratio}" for key, ratio in rows.items()))


if __name__ == "__main__":
    sys.exit(main())
