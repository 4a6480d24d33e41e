"""Releases: every file against the manifest; and activations, whose files are links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.files import hash_folder
from enginepress.manifest import Manifest
from enginepress.repository.place import content_digest_of, place, unplaced_files, write_placement
from enginepress.repository.validate import validate
from tests.repository import samples

DIGEST = "0" * 64


def _release(
    folder: Path, build: Callable[[str], dict[str, str | bytes]] = samples.genai, number: int = 7, **fields: Any
) -> Path:
    """A release as it lies in a store."""
    samples.write(folder / "raw", build("0"))
    write_placement(place(folder / "raw", number, None), folder / "releases" / str(number) / "repository", link="copy")
    release = folder / "releases" / str(number)
    values: dict[str, Any] = {
        "model": "tiny",
        "release": number,
        "build_key": DIGEST,
        "content_digest": content_digest_of(release / "repository"),
        "files": hash_folder(release / "repository"),
        "made_from": {"source": "hf://org/name", "revision": "main", "revision_digest": DIGEST},
        "made_with": {},
        "recipe": {},
        "served_by": [],
        **fields,
    }
    (release / "manifest.json").write_text(Manifest(**values).to_text())
    return release


@pytest.mark.parametrize("build", [samples.genai, samples.tensorrt_llm, samples.vllm, samples.chain])
def test_a_published_release_is_valid_and_its_paths_need_no_root(tmp_path: Path, build: Any) -> None:
    result = validate(_release(tmp_path, build))
    assert (result.kind, result.release, result.ok) == ("release", 7, True)
    assert result.warnings == ()


def _model_py(release: Path) -> Path:
    return release / "repository/tiny/7/model.py"


def _manifest_field(name: str, value: Any) -> Callable[[Path], Any]:
    def change(release: Path) -> None:
        data = json.loads((release / "manifest.json").read_text())
        (release / "manifest.json").write_text(json.dumps({**data, name: value}))

    return change


CHANGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "one byte": (
        lambda r: _model_py(r).write_text(samples.PYTHON_MODEL.replace('"x"', '"z"')),
        "repository/tiny/7/model.py",
        "has other bytes than published",
    ),
    "longer": (
        lambda r: _model_py(r).write_text(samples.PYTHON_MODEL + "#"),
        "repository/tiny/7/model.py",
        "but the manifest says",
    ),
    "missing": (
        lambda r: (r / "repository/tiny/7/engine/model.onnx.data").unlink(),
        "repository/tiny/7/engine/model.onnx.data",
        "is in the manifest, but not there",
    ),
    "added": (
        lambda r: (r / "repository/tiny/7/extra.py").write_text("x"),
        "repository/tiny/7/extra.py",
        "is not in the manifest",
    ),
    "renamed version": (
        lambda r: (r / "repository/tiny/7").rename(r / "repository/tiny/8"),
        "manifest.json",
        "release is 7, but the version folders are 8",
    ),
    "hand-edited manifest": (_manifest_field("build_key", "1" * 64), "manifest.json", "was changed after it was written"),
    "no JSON": (lambda r: (r / "manifest.json").write_text("{"), "manifest.json", "is damaged"),
    "deep JSON": (lambda r: (r / "manifest.json").write_text("[" * 100_000), "manifest.json", "is damaged"),
    "list": (lambda r: (r / "manifest.json").write_text("[]"), "manifest.json", "is not a JSON object"),
    "garbage": (lambda r: (r / "manifest.json").write_bytes(b"\xff\x00"), "manifest.json", "is damaged"),
}


@pytest.mark.parametrize("case", CHANGES, ids=str)
def test_any_change_to_a_release_is_found(tmp_path: Path, case: str) -> None:
    change, file, says = CHANGES[case]
    release = _release(tmp_path)
    change(release)
    result = validate(release)
    assert result.kind == "release"
    assert [f.message for f in result.errors if f.file == file and says in f.message], result.findings


def test_a_content_digest_of_other_content_is_found(tmp_path: Path) -> None:
    (finding,) = validate(_release(tmp_path, content_digest="a" * 64)).errors
    assert finding.file == "manifest.json"
    assert finding.message.startswith("content_digest is aaaaaaaaaaaa…, but the repository's is ")


def test_mistakes_in_a_release_are_found_like_in_any_repository(tmp_path: Path) -> None:
    def mistaken(version: str) -> dict[str, str | bytes]:
        files = samples.genai(version)
        return {**files, f"tiny/{version}/engine/model.onnx": b""}

    result = validate(_release(tmp_path, mistaken))
    assert [(f.file, f.message) for f in result.errors] == [("repository/tiny/7/engine/model.onnx", "is empty")]


@pytest.mark.parametrize("link", ["hard", "symlink", "copy"])
def test_an_activation_is_valid_where_its_readers_see_it_and_elsewhere(tmp_path: Path, link: Any) -> None:
    release = _release(tmp_path, samples.tensorrt_llm)
    activation = tmp_path / "activations/production-7"
    write_placement(place(release / "repository", 7, str(activation)), activation, link=link)
    result = validate(activation)
    assert (result.kind, result.release, result.findings) == ("repository", 7, ())
    elsewhere = tmp_path / "activations/mounted-elsewhere"
    write_placement(place(release / "repository", 7, "/not/here"), elsewhere, link=link)
    assert validate(elsewhere).findings == ()


def test_a_channel_that_is_a_link_is_followed(tmp_path: Path) -> None:
    release = _release(tmp_path)
    write_placement(place(release / "repository", 7, "/srv"), tmp_path / "activations/a")
    (tmp_path / "production").symlink_to("activations/a")
    assert validate(tmp_path / "production").findings == ()


def test_an_unplaced_repository_is_said_to_be_one(tmp_path: Path) -> None:
    samples.write(tmp_path / "raw", samples.tensorrt_llm("0"))
    write_placement(unplaced_files(tmp_path / "raw"), tmp_path / "unplaced")
    result = validate(tmp_path / "unplaced")
    assert (result.kind, result.release, result.ok) == ("unplaced", None, True)
    assert {f.severity for f in result.findings} == {"info"}
    assert result.findings[0].message.startswith("is unplaced")


def test_a_numbered_repository_whose_paths_have_no_root_is_warned_about(tmp_path: Path) -> None:
    result = validate(_release(tmp_path, samples.tensorrt_llm) / "repository")
    assert result.ok
    assert {f.file for f in result.warnings} == {
        "llama-engine/config.pbtxt",
        "llama-preprocessing/config.pbtxt",
        "llama-postprocessing/config.pbtxt",
    }


@pytest.mark.parametrize("below", ["", "tiny"])
def test_a_store_is_told_from_a_repository_and_a_release_in_it_is_named(tmp_path: Path, below: str) -> None:
    _release(tmp_path / "store/tiny")
    (tmp_path / "store/tiny/model.json").write_text("{}")
    (finding,) = validate(tmp_path / "store" / below).findings
    assert "is a store's folder" in finding.message
    assert str(tmp_path / "store/tiny/releases/7") in finding.fix
