"""Headers of safetensors files: strict, and never laxer than the safetensors library."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from enginepress.errors import SourceError
from enginepress.sources.safetensors_header import DTYPE_BITS, Header, read_header
from tests.sources.tiny import tensor_file, with_header


def _parse(data: bytes) -> Header:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return read_header(Path(file.name))


def _one(**changes: Any) -> bytes:
    return with_header({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **changes}}, b"1234")


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 6), max_size=4)


@st.composite
def valid_files(draw: st.DrawFn) -> bytes:
    """Headers as the format allows them, with padding and metadata, tensors in any order of their names."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(names, unique=True, max_size=6)):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(shapes)
        if DTYPE_BITS[dtype] % 8:
            shape = [*shape, 8]
        bits = DTYPE_BITS[dtype]
        for side in shape:
            bits *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + bits // 8]}
        end += bits // 8
    items = draw(st.permutations(list(header.items())))
    if draw(st.booleans()):
        items.insert(0, ("__metadata__", draw(st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))))))
    raw = json.dumps(dict(items), ensure_ascii=draw(st.booleans())).encode() + b" " * draw(st.integers(0, 9))
    return with_header(raw, bytes(end))


@given(valid_files())
def test_every_valid_header_is_read_as_the_safetensors_library_reads_it(data: bytes) -> None:
    ours = _parse(data)
    theirs = {name: (entry["dtype"], tuple(entry["shape"]), len(entry["data"])) for name, entry in deserialize(data)}
    assert {name: (t.dtype, t.shape, t.end - t.start) for name, t in ours.tensors.items()} == theirs


@settings(max_examples=400)
@given(valid_files(), st.data())
def test_a_changed_header_is_refused_or_means_the_same_to_the_safetensors_library(data: bytes, draw: st.DataObject) -> None:
    header_end = 8 + int.from_bytes(data[:8], "little")
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, min(header_end, len(changed) - 1)))
        kind = draw.draw(st.sampled_from(["byte", "delete", "insert"]))
        if kind == "byte":
            changed[at] = draw.draw(st.sampled_from(b'{}[]",:0123456789- \n\t\\aeE.U8\xff'))
        elif kind == "delete":
            del changed[at]
        else:
            changed.insert(at, draw.draw(st.sampled_from(b'{}[]",:019- \n')))
    if not changed:
        return
    try:
        ours = _parse(bytes(changed))
    except SourceError:
        return
    theirs = {name: (entry["dtype"], tuple(entry["shape"]), len(entry["data"])) for name, entry in deserialize(bytes(changed))}
    assert {name: (t.dtype, t.shape, t.end - t.start) for name, t in ours.tensors.items()} == theirs


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_without_any_other_error(data: bytes) -> None:
    with pytest.raises(SourceError):
        _parse(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_one(data_offsets=[0, 3]), "needs 4 bytes"),
        (_one(shape=[5]), "needs 5 bytes"),
        (_one(dtype="U16"), "needs 8 bytes"),
        (_one(dtype="Q9"), "unknown dtype 'Q9'"),
        (_one(dtype=["U8"]), "unknown dtype"),
        (_one(extra=1), "exactly dtype, shape and data_offsets"),
        (_one(shape=[True, 4]), "no list of sizes"),
        (_one(shape=[4.0]), "no whole number"),
        (_one(shape=[-4]), "no size"),
        (_one(shape="4"), "no list of sizes"),
        (_one(shape=[2**63, 4, 0], data_offsets=[0, 0]), "no list of sizes"),
        (_one(shape=[2**40, 2**40, 0], data_offsets=[0, 0]), "larger than any file"),
        (_one(dtype="F4", shape=[3], data_offsets=[0, 1]), "whole byte"),
        (_one(data_offsets=[4, 0]), "no pair of begin and end"),
        (_one(data_offsets=[0]), "no pair of begin and end"),
        (_one()[:-1], "it is truncated: its tensors need 4 bytes, and 3 follow"),
        (_one() + b"!", "1 bytes follow its last tensor"),
        (_one()[:20], "the file ends after 20"),
        (_one()[:5], "5 bytes and cannot hold a header"),
        (with_header(b" " + _one()[8:-4], b"1234"), "does not begin with '{'"),
        (with_header(_one()[8:-4] + b"\n", b"1234"), "padded with something else than spaces"),
        (with_header(_one()[8:-4] + b"\0", b"1234"), "not JSON"),
        (with_header(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"1"), "'dtype' occurs twice"),
        (with_header(b'{"a":{},"a":{}}'), "'a' occurs twice"),
        (with_header(b'{"a":' * 50_000), "not JSON|too deeply"),
        (with_header(b'{"\xff":{}}'), "not UTF-8"),
        (with_header(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"), "not UTF-8"),
        (with_header({"__metadata__": {"a": 1}}), "__metadata__"),
        (with_header({"__metadata__": None}), "__metadata__"),
        (with_header({"a": None}), "exactly dtype"),
        ((10**9).to_bytes(8, "little") + b"{}", "more than 100,000,000"),
    ],
)
def test_a_bad_header_is_refused_and_the_message_says_what_is_wrong(data: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(SourceError, match=problem) as caught:
        read_header(file)
    assert caught.value.where == str(file)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("second", "problem"),
    [((2, 6), "overlaps"), ((5, 9), "hole before tensor 'b'"), ((0, 4), "overlaps")],
)
def test_tensors_that_do_not_lie_side_by_side_are_refused(second: tuple[int, int], problem: str) -> None:
    header = {
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": list(second)},
    }
    with pytest.raises(SourceError, match=problem):
        _parse(with_header(header, bytes(max(second))))


def test_a_header_that_the_library_lets_pass_but_readers_may_read_differently_is_refused() -> None:
    data = with_header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{},"__metadata__":{}}', b"1")
    spaced = with_header(b' {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1")
    for lax in (data, spaced):
        try:
            deserialize(lax)
        except SafetensorError:
            continue
        with pytest.raises(SourceError):
            _parse(lax)


def test_tensors_are_listed_in_the_order_of_their_bytes_with_the_header_size(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(tensor_file({"z": 3, "a": 5}))
    header = read_header(file)
    assert list(header.tensors) == ["z", "a"]
    assert header.metadata == {"format": "pt"}
    assert header.size + 8 == file.stat().st_size
