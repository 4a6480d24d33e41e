"""What the checkpoint's own files say about how its answers begin and end.

<tokenizer folder>/generation_config.json, then config.json: the first file that names end tokens decides, in the order that
transformers' generate() follows, so that served answers end where the checkpoint's authors end them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SettingsError(Exception):
    """The model cannot be loaded as it is configured."""


@dataclass(frozen=True)
class Generation:
    """Token numbers; an empty tuple or None where no file names any.

    Attributes:
        end_tokens: each of them ends an answer; in the file's order.
        decoder_start: the token that an encoder-decoder model's answer starts from.
        vocab_size: as in config.json.
    """

    end_tokens: tuple[int, ...] = ()
    pad_token: int | None = None
    decoder_start: int | None = None
    vocab_size: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Generation:
        """Reads the files of a tokenizer folder.

        Raises:
            SettingsError: for a file that is not what it should be.
        """
        files = [read_json(file) for file in (folder / "generation_config.json", folder / "config.json") if file.is_file()]
        return cls(
            end_tokens=next((found for found in (token_ids(f.get("eos_token_id")) for f in files) if found), ()),
            pad_token=_first(files, "pad_token_id"),
            decoder_start=_first(files, "decoder_start_token_id"),
            vocab_size=_first(files, "vocab_size"),
        )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        SettingsError: if it cannot be read or is none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{file}: is not a JSON object")
    return value


def token_ids(value: Any) -> tuple[int, ...]:
    """`eos_token_id` is a number, a list of numbers, or null."""
    if value is None:
        return ()
    return tuple(int(i) for i in (value if isinstance(value, list) else [value]))


def _first(files: list[dict[str, Any]], key: str) -> int | None:
    return next((int(f[key]) for f in files if isinstance(f.get(key), int)), None)
