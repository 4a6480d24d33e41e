from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import StoreError
from enginepress.files import FileEntry
from enginepress.manifest import Manifest
from tests.stores.parts import key, manifest

FILES = (FileEntry("tiny/7/engine/model.onnx", 12, key("x")), FileEntry("tiny/config.pbtxt", 3, key("y")))
SEVEN = manifest(7, FILES, key("k"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    again = Manifest.from_text(SEVEN.to_text(), where="manifest.json")
    assert again.to_json() == SEVEN.to_json()
    assert again.digest == SEVEN.digest
    assert again.files == FILES
    assert again.size == 15


@given(
    st.lists(st.builds(FileEntry, st.text(min_size=1, max_size=12), st.integers(0, 2**50), st.just(key("x"))), max_size=4),
    st.dictionaries(st.text(max_size=8) | st.just("files"), json_values | st.just([]), max_size=3),
)
def test_the_text_is_what_json_writes(files: list[FileEntry], made_with: dict[str, Any]) -> None:
    one = replace(SEVEN, files=tuple(files), made_with=made_with, model='"files": []')
    assert one.to_text() == json.dumps(one.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_digest_does_not_depend_on_how_the_file_is_laid_out() -> None:
    squeezed = json.dumps(SEVEN.to_json(), separators=(",", ":"))
    assert Manifest.from_text(squeezed, where="m").digest == SEVEN.digest


@pytest.mark.parametrize("field", sorted(SEVEN.to_json()))
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    data = SEVEN.to_json()
    del data[field]
    with pytest.raises(StoreError, match=rf"{field}: is missing") as caught:
        Manifest.from_json(data, where="releases/7/manifest.json")
    assert caught.value.where == "releases/7/manifest.json"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("release", 0, "release: 0"),
        ("release", True, "release: True"),
        ("release", "7", "release: '7'"),
        ("model", 5, "model: 5"),
        ("build_key", "xyz", "build_key: 'xyz'"),
        ("build_key", "A" * 64, "build_key"),
        ("created", "yesterday", "created: 'yesterday'"),
        ("files", {}, "files:"),
        ("files", [1], r"files\[0\]: is not a JSON object"),
        ("files", [{"path": "../x", "size": 1, "sha256": key("x")}], r"files\[0\].path"),
        ("files", [{"path": "/etc/passwd", "size": 1, "sha256": key("x")}], r"files\[0\].path"),
        ("files", [{"path": "x", "size": -1, "sha256": key("x")}], r"files\[0\].size"),
        ("files", [{"path": "x", "size": 1, "sha256": key("x"), "mode": 7}], r"files\[0\].mode: is not a field"),
        ("files", [{"path": p, "size": 1, "sha256": key("x")} for p in ("b", "a")], "not sorted"),
        ("files", [{"path": "a", "size": 1, "sha256": key("x")}] * 2, "twice"),
        ("made_from", {"source": "s", "revision": "r"}, "made_from.revision_digest: is missing"),
        ("made_with", [], "made_with"),
        ("recipe", None, "recipe"),
        ("served_by", [1], "served_by"),
        ("format", 2, "format 2"),
        ("extra", 1, "extra: is not a field of a manifest"),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, value: Any, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        Manifest.from_json({**SEVEN.to_json(), field: value}, where="m")


def test_a_manifest_edited_by_hand_is_refused() -> None:
    edited = SEVEN.to_text().replace('"revision": "abc"', '"revision": "abd"')
    assert edited != SEVEN.to_text()
    with pytest.raises(StoreError, match="was changed after it was written"):
        Manifest.from_text(edited, where="m")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, SEVEN.to_text().encode()[:-20]])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(StoreError):
        Manifest.from_text(text, where="m")


@given(field=st.sampled_from(sorted(SEVEN.to_json())), value=json_values)
def test_any_change_of_any_field_is_refused_and_nothing_else_is_raised(field: str, value: Any) -> None:
    data = SEVEN.to_json()
    if data[field] == value and type(data[field]) is type(value):
        return
    with pytest.raises(StoreError):
        Manifest.from_json({**data, field: value}, where="m")


def test_reading_manifests_imports_nothing_heavy() -> None:
    code = (
        "import sys; import enginepress.manifest, enginepress.stores.open;"
        "print([m for m in ('pydantic', 'mlflow', 'numpy', 'yaml', 'kfp') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
