"""Calibration texts: read from a local file, in the file's order, so that the same file gives the same scaling factors.

Read twice: with the recipe, so that nobody downloads a model for a file that is no good, and when the texts are needed.

.jsonl    one JSON object a line, with a string `text`
.txt      one text a line
"""

from __future__ import annotations

import json
from pathlib import Path

from enginepress.errors import RecipeError
from enginepress.files import hash_file
from enginepress.recipe import Calibration

FIELD = "engine.calibration.data"
_OBJECTS = 'each line is an object such as {"text": "..."}'


def read_texts(calibration: Calibration) -> list[str]:
    """The first `samples` texts; empty lines do not count.

    Raises:
        RecipeError: naming file and line, if it cannot be read, changed since the recipe was read, or holds no text.
    """
    path = Path(calibration.data)
    try:
        if calibration.sha256 is not None and hash_file(path) != calibration.sha256:
            raise RecipeError(
                f"{FIELD}: the file is not the one that the recipe was read with",
                where=str(path),
                fix="put the file back, or run again",
            )
        texts: list[str] = []
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    texts.append(_text(line, number, path))
                if len(texts) == calibration.samples:
                    break
    except OSError as error:
        raise RecipeError(
            f"{FIELD}: cannot be read: {error.strerror}",
            where=str(path),
            fix="the file must be readable where the conversion runs, under the same path",
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{FIELD}: is not UTF-8: {error.reason} at byte {error.start}", where=str(path), fix=_each_line(path)
        ) from None
    if not texts:
        raise RecipeError(f"{FIELD}: holds no text", where=str(path), fix=_each_line(path))
    return texts


def refuse_unused(calibration: Calibration | None, why: str) -> None:
    """
    Args:
        why: nothing is calibrated, as a clause.

    Raises:
        RecipeError: if there are texts all the same, which would be ignored.
    """
    if calibration is not None:
        raise RecipeError(f"nothing is calibrated: {why}", where="engine.calibration", fix="leave engine.calibration out")


def _each_line(path: Path) -> str:
    return "each line is one text" if path.suffix == ".txt" else _OBJECTS


def _text(line: str, number: int, path: Path) -> str:
    if path.suffix == ".txt":
        return line.rstrip("\r\n")
    where = f"{path}:{number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{FIELD}: is not JSON: {error}", where=where, fix=_OBJECTS) from None
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(f"{FIELD}: has no 'text'", where=where, fix=_OBJECTS)
    return text
