"""Calibration texts in the form that NVIDIA's tools read without a network: a folder that `datasets` loads as the split
`train` with the column `text` (`get_calib_dataloader` of quantize_by_modelopt.py, `load_calib_dataset` of convert_utils.py)."""

from __future__ import annotations

import json
from pathlib import Path

from enginepress.calibration import read_texts
from enginepress.recipe import Calibration


def write_texts(calibration: Calibration, folder: Path) -> None:
    """Fills the new folder with the recipe's texts.

    Raises:
        RecipeError: if the file cannot be read, or holds none.
    """
    texts = read_texts(calibration)
    folder.mkdir()
    with open(folder / "train.jsonl", "w", encoding="utf-8") as stream:
        for text in texts:
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
