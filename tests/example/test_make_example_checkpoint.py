"""The script that trains the example checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "examples" / "checkpoints" / "tiny-llama"
WRITTEN = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def trained(output: Path, *options: str) -> dict[str, bytes]:
    command = [sys.executable, str(ROOT / "scripts" / "make_example_checkpoint.py"), "--output", str(output), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return trained(tmp_path_factory.mktemp("two-steps"), "--steps", "2")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(two_steps: dict[str, bytes], tmp_path: Path) -> None:
    assert set(two_steps) == WRITTEN
    assert trained(tmp_path, "--steps", "2") == two_steps


@pytest.mark.slow
def test_another_seed_gives_other_weights_and_the_same_tokenizer(two_steps: dict[str, bytes], tmp_path: Path) -> None:
    other = trained(tmp_path, "--steps", "2", "--seed", "8")
    assert {name for name in WRITTEN if other[name] != two_steps[name]} == {"model.safetensors"}


def test_everything_but_the_weights_is_what_lies_in_the_repository(two_steps: dict[str, bytes]) -> None:
    """So a changed script or corpus cannot be forgotten to be run."""
    for name in WRITTEN - {"model.safetensors"}:
        assert two_steps[name] == (COMMITTED / name).read_bytes(), name
    assert len(two_steps["model.safetensors"]) == (COMMITTED / "model.safetensors").stat().st_size
