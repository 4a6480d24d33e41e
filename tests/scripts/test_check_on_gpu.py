"""scripts/check_on_gpu.py with the CPU on both sides: what it compares, and that a failing part keeps no other from running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu_check.parts import Settings, isolated

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


def test_a_part_that_fails_is_written_down(tmp_path: Path) -> None:
    def part(settings: Settings) -> dict[str, Any]:
        raise SystemExit("a library gave up")

    found = isolated(part, Settings("cpu", True, tmp_path, 0.0, 1))
    assert (found["ok"], found["error"]) == (False, "SystemExit: a library gave up")
    assert "part(settings)" in found["traceback"]


def test_what_differs_between_two_conversions_is_found_by_kind(tmp_path: Path) -> None:
    from enginepress.engines.modelopt.tensor_files import write_tensors
    from scripts.gpu_check.compare import compare

    weight = torch.arange(8, dtype=torch.float32).reshape(2, 4).to(torch.float8_e4m3fn)
    for side, scale in (("gpu", 0.5), ("cpu", 0.4)):
        (tmp_path / side).mkdir()
        tensors = {"a.weight": weight, "a.weights_scaling_factor": torch.tensor([scale]), "n.weight": torch.ones(3)}
        write_tensors(tmp_path / side / "rank0.safetensors", tensors)
        (tmp_path / side / "config.json").write_text(json.dumps({"mapping": {"tp_size": 1}, "side": side}))
    found = compare(tmp_path / "gpu", tmp_path / "cpu")
    assert found["configs"] == {"config.json": ["side: 'gpu' on the GPU, 'cpu' on the CPU"]}
    kinds = found["tensors"]["kinds"]
    assert kinds["weight float8_e4m3fn"]["equal_share"] == 1.0
    assert kinds["weight float8_e4m3fn"]["decoded_rel"] == pytest.approx(0.25, rel=1e-3)
    assert kinds["weights_scaling_factor float32"]["max_rel"] == pytest.approx(0.25, rel=1e-3)
    assert kinds["weight float32"]["worst"] == []


@pytest.mark.slow
def test_it_runs_whole_on_a_cpu_within_its_time(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/check_on_gpu.py", "--out", str(tmp_path), "--device", "cpu", "--tiny", "--cases", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert found["memory"]["models"]["mixtral"]["kv_cache"]["ratio"] == 1.0
    assert found["convert"]["cases"]["llama fp8"]["compared"]["same_files"]
    assert not (tmp_path / "scratch").exists()
