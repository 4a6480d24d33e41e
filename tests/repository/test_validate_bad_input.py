"""Whatever lies at a path, validate answers with findings. A traceback would be a bug."""

from __future__ import annotations

import json
import os
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.errors import UsageError
from enginepress.repository.validate import validate
from tests.repository import samples


@pytest.mark.parametrize("path", ["missing", "missing/below", "file/below", "nul\0byte", "long" * 2000])
def test_a_path_with_nothing_there_is_a_usage_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no such folder"):
        validate(tmp_path / path)


def _says(path: Path) -> list[str]:
    result = validate(path)
    json.dumps(result.to_json()).encode()
    assert not result.ok
    return [finding.message for finding in result.errors]


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\x00\xff")
    assert _says(tmp_path / "f") == ["is a file; a model repository is a folder of models"]


def test_an_empty_folder(tmp_path: Path) -> None:
    assert _says(tmp_path) == ["has no models: there is no folder in it"]


def test_one_model_instead_of_a_repository(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.onnx())
    assert _says(tmp_path / "scorer") == ["is one model; a repository is the folder above it"]


def _config(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "scorer/config.pbtxt").write_bytes(content)


def _replace_config(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / "scorer/config.pbtxt").unlink()
        make(folder / "scorer/config.pbtxt")

    return change


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "binary garbage": (_config(bytes(range(256)) * 20), "is not text"),
    "ten megabytes": (_config(b"#" * 10_000_000), "is larger than"),
    "deep braces": (_config(b"input {" * 200_000), "line 1: "),
    "deep brackets": (_config(b"input: " + b"[" * 200_000), "line 1: "),
    "one endless string": (_config(b'name: "' + b"x" * 1_500_000), "line 1: "),
    "folder": (_replace_config(lambda p: p.mkdir()), "is a folder, not a file"),
    "pipe": (_replace_config(os.mkfifo), "is no regular file"),
    "socket": (_replace_config(_socket), "is no regular file"),
    "endless device": (_replace_config(lambda p: p.symlink_to("/dev/zero")), "is no regular file"),
    "link to nothing": (_replace_config(lambda p: p.symlink_to("nowhere")), "is a link to nothing"),
    "link to itself": (_replace_config(lambda p: p.symlink_to("config.pbtxt")), "is a link to nothing"),
    "weights link out": (lambda f: (f / "scorer/1/w.bin").symlink_to("/etc/passwd"), "leads out of the repository"),
    "folder link out": (lambda f: (f / "scorer/1/etc").symlink_to("/etc"), "leads out of the repository"),
    "pipe for weights": (lambda f: os.mkfifo(f / "scorer/1/w.bin"), "is no regular file"),
    "model link to nothing": (lambda f: (f / "scorer/2").symlink_to("nowhere"), "is a link to nothing"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_file_is_a_finding(tmp_path: Path, case: str) -> None:
    change, says = BROKEN[case]
    change(samples.write(tmp_path, samples.onnx()))
    assert any(says in message for message in _says(tmp_path)), _says(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        b"\0",
        b"(" * 100_000,
        b"-" * 200_000 + b"1",
        b"x = " + b"[" * 90 + b"]" * 90 + b"\n" + b"+".join([b"1"] * 20_000),
        b"\xff\xfe",
        b"# coding: nonsense\n",
        b"class TritonPythonModel:\n\tdef f(self):\n        pass\n",
    ],
    ids=range(7),
)
def test_python_that_breaks_parsers_is_a_finding(tmp_path: Path, source: bytes) -> None:
    samples.write(tmp_path, {**samples.chain(), "first/1/model.py": source})
    (finding,) = validate(tmp_path).errors
    assert finding.file == "first/1/model.py"
    assert "Python" in finding.message


@pytest.mark.parametrize("content", [b"[" * 20_000, b"{" * 20_000, b"\xff\x00", b'{"model": {}}', b"null", b"- a", b"&a [*a]"])
@pytest.mark.parametrize("name", ["chat/1/model.json", "chat/1/model.yaml"])
def test_engine_records_that_break_parsers_are_findings(tmp_path: Path, name: str, content: bytes) -> None:
    build = samples.vllm if name.endswith("json") else samples.llmapi
    result = validate(samples.write(tmp_path, {**build(), name: content}))
    assert [finding.file for finding in result.errors] == [name]


@pytest.mark.parametrize(
    "record", [b"[]", b"{", b'{"pretrained_config": 3}', b'{"pretrained_config": {"mapping": {"tp_size": "two"}}}']
)
def test_a_tensorrt_record_of_any_shape_is_survived(tmp_path: Path, record: bytes) -> None:
    samples.write(tmp_path, {**samples.tensorrt_llm(), "llama-engine/1/engine/config.json": record})
    assert any(finding.file == "llama-engine/config.pbtxt" for finding in validate(tmp_path).errors)


def test_names_that_are_not_utf8_can_be_shown(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.onnx())
    folder = os.fsdecode(b"m\xff\xfe")
    samples.write(tmp_path, {f"{folder}/config.pbtxt": "nonsense", f"{folder}/1/\udcffx": ""})
    messages = [finding.to_json() for finding in validate(tmp_path).errors]
    assert messages
    json.dumps(messages, ensure_ascii=False).encode("utf-8")


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.onnx())
    (tmp_path / "scorer/1/again").symlink_to("..")
    assert validate(tmp_path).kind == "repository"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_finding(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.onnx())
    (tmp_path / "scorer/config.pbtxt").chmod(0)
    assert any("cannot be read" in message for message in _says(tmp_path))


@given(seed=st.integers(0, 2**32), build=st.sampled_from([samples.chain, samples.tensorrt_llm, samples.genai, samples.llmapi]))
@settings(max_examples=60, deadline=None)
def test_no_damage_to_any_file_makes_validate_fail(seed: int, build: Callable[[], dict[str, str | bytes]]) -> None:
    chance = random.Random(seed)
    files = build()
    for name in chance.sample(sorted(files), 2):
        content = files[name]
        data = bytearray(content.encode() if isinstance(content, str) else content)
        for _ in range(chance.randrange(1, 20)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(30)] = chance.randbytes(chance.randrange(10))
        files[name] = bytes(data)
    with tempfile.TemporaryDirectory() as scratch:
        result = validate(samples.write(Path(scratch), files))
        json.dumps(result.to_json())
