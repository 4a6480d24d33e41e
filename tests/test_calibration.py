"""Calibration texts come from a local file, and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.calibration import read_texts
from enginepress.errors import RecipeError
from enginepress.files import hash_file
from enginepress.recipe import Calibration


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_of_a_text_file_are_texts_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one\n\n  \ntwo\r\nthree")
    assert read_texts(Calibration(data=str(path))) == ["one", "two", "three"]


def test_jsonl_has_a_text_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "one\\nline"}\n\n{"text": "two", "id": 7}\n')
    assert read_texts(Calibration(data=str(path))) == ["one\nline", "two"]


def test_only_as_many_as_asked_for_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": "two"}\nnot json\n')
    assert read_texts(Calibration(data=str(path), samples=2)) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": 2}\n', "a.jsonl:2: engine.calibration.data: has no 'text'"),
        ("a.jsonl", '{"text": "one"}\nnot json\n', "a.jsonl:2: engine.calibration.data: is not JSON"),
        ("a.jsonl", '["one"]\n', "a.jsonl:1"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.txt", b"one\n\xff\n", "is not UTF-8"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_by_its_line(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        read_texts(Calibration(data=str(written(tmp_path, name, content))))
    assert says in str(raised.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_texts(Calibration(data=str(tmp_path / "none.txt")))


def test_a_file_that_changed_since_the_recipe_was_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one\n")
    digest = hash_file(path)
    assert read_texts(Calibration(data=str(path), sha256=digest)) == ["one"]
    path.write_text("two\n")
    with pytest.raises(RecipeError, match="not the one that the recipe was read with"):
        read_texts(Calibration(data=str(path), sha256=digest))
