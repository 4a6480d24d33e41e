"""JSON of strangers that the parser itself trips over: a named error for each reader, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.engines.tool_runs import read_object
from enginepress.errors import EnginepressError
from enginepress.json_text import parse_json
from enginepress.lockfile import read_lock_file
from enginepress.recipe_file import recipe_from_json
from enginepress.sources.download import check_tokenizer
from enginepress.sources.model_config import model_settings, read_model_config
from enginepress.sources.safetensors_header import read_header
from enginepress.sources.weights import parse_index

NUMBER = b'{"a": ' + b"9" * 5000 + b"}"
DEEP = b'{"a": ' + b"[" * 200_000
NOT_UTF8 = b'{"a": "\xff"}'


def _safetensors(path: Path, raw: bytes) -> None:
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    read_header(path)


def _written(read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def reader(path: Path, raw: bytes) -> object:
        path.write_bytes(raw)
        return read(path)

    return reader


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "config.json": _written(read_model_config),
    "settings": lambda path, raw: model_settings(raw, None, where=str(path)),
    "quantization": lambda path, raw: model_settings(b"{}", raw, where=str(path)),
    "index": lambda path, raw: parse_index(raw, where=str(path)),
    "tokenizer": _written(check_tokenizer),
    "lock": _written(read_lock_file),
    "a tool's file": _written(read_object),
    "safetensors": _safetensors,
    "a recipe that travels": lambda path, raw: recipe_from_json(raw.decode("latin-1"), ""),
}


@pytest.mark.parametrize("raw", [NUMBER, DEEP, NOT_UTF8], ids=["number", "deep", "not utf-8"])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_json_that_the_parser_trips_over_is_a_named_error(
    reader: Callable[[Path, bytes], object], raw: bytes, tmp_path: Path
) -> None:
    with pytest.raises(EnginepressError):
        reader(tmp_path / "file", raw)


def test_a_byte_order_mark_is_no_error() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', where="x") == {"a": 1}
