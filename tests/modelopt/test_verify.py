"""What the comparison says of tensors that are not what they should be. Files made here, without ModelOpt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

from enginepress.engines.modelopt.verify import verify_hugging_face  # noqa: E402
from enginepress.errors import BuildError  # noqa: E402

WEIGHT = "model.layers.0.mlp.down_proj.weight"
SCALE = WEIGHT + "_scale"


def _folders(tmp_path: Path, ours: dict[str, object], written: dict[str, object]) -> tuple[Path, Path]:
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "output"
    for folder, tensors in ((checkpoint, ours), (output, written)):
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    (output / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    return checkpoint, output


def _weight(value: float = 0.5, shape: tuple[int, int] = (4, 8)) -> object:
    return torch.full(shape, value, dtype=torch.bfloat16)


def _quantized(value: float = 1.0) -> object:
    return torch.full((4, 8), value).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("ours", "written", "said", "fix"),
    [
        ({WEIGHT: _weight()}, {WEIGHT: _weight(0.25)}, "is not what the checkpoint has", None),
        ({WEIGHT: _weight()}, {WEIGHT: _weight(shape=(8, 4))}, r"has the shape \(8, 4\), and the checkpoint's is \(4, 8\)", None),
        ({WEIGHT: _weight(float("nan"))}, {WEIGHT: _weight(float("nan"))}, "values there that are no numbers", "damaged"),
        ({WEIGHT: _weight(float("nan"))}, {WEIGHT: _quantized(), SCALE: torch.tensor(1.0)}, "no numbers or too large", "damaged"),
        ({WEIGHT: _weight()}, {WEIGHT: _quantized(), SCALE: torch.tensor(float("nan"))}, "differs by nan", None),
        ({WEIGHT: _weight()}, {WEIGHT: _quantized(), SCALE: torch.tensor(2.0)}, r"differs by 3\.00", None),
        ({WEIGHT: _weight()}, {"other": _weight()}, "did not write it", None),
    ],
)
def test_a_wrong_tensor_is_refused_saying_what_is_wrong(
    tmp_path: Path, ours: dict[str, object], written: dict[str, object], said: str, fix: str | None
) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        verify_hugging_face(*_folders(tmp_path, ours, written))
    assert fix is None or fix in (caught.value.fix or "")


def test_a_right_tensor_passes_quantized_or_not(tmp_path: Path) -> None:
    ours = {WEIGHT: _weight(), "model.norm.weight": torch.ones(8, dtype=torch.bfloat16)}
    written = {WEIGHT: _quantized(), SCALE: torch.tensor(0.5), "model.norm.weight": torch.ones(8, dtype=torch.bfloat16)}
    verify_hugging_face(*_folders(tmp_path, ours, written))
