"""What a build takes from a source, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import SourceError, UnsafePathError
from enginepress.sources.selection import Selection, select
from tests.sources.tiny import INDEX, checkpoint

BASE = {"config.json": 2, "tokenizer.json": 2, "model.safetensors": 9}


def _index(*files: str) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": file for n, file in enumerate(files)}}).encode()


def _select(sizes: Mapping[str, int], contents: Mapping[str, bytes] | None = None, **choices: bool) -> Selection:
    return select(sizes, read=lambda path: (contents or {})[path], where="hf://o/m", **choices)


def _without(*paths: str, **more: int) -> dict[str, int]:
    return {**{p: s for p, s in BASE.items() if p not in paths}, **more}


def test_a_checkpoint_needs_weights_config_tokenizer_and_licence_and_nothing_else() -> None:
    files = {
        **checkpoint(),
        "original/consolidated.00.pth": b"",
        "consolidated.safetensors": b"x",
        "model.fp16.safetensors": b"x",
        "pytorch_model.bin": b"x",
        "model-q4.gguf": b"x",
        "onnx/model.onnx": b"x",
        "modeling_x.py": b"x",
        "chat_template.jinja": b"x",
        "USE_POLICY.md": b"x",
        "licenses.png": b"x",
    }
    selection = _select({p: len(b) for p, b in files.items()})
    assert selection.files == (
        "LICENSE",
        "USE_POLICY.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert set(selection.files) | set(selection.unused) == set(files)
    assert not set(selection.files) & set(selection.unused)


def test_shards_are_those_that_the_index_names() -> None:
    files = checkpoint(shards=3)
    sizes = {p: len(b) for p, b in files.items()} | {"model-00004-of-00003.safetensors": 9}
    weights = [p for p in _select(sizes, files).files if "safetensors" in p]
    assert weights == [*(f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)), INDEX]


def test_unusual_shard_names_are_accepted_if_the_index_names_them() -> None:
    sizes = _without("model.safetensors", **{INDEX: 1, "model.safetensors-00001-of-00001.safetensors": 5})
    assert (
        "model.safetensors-00001-of-00001.safetensors"
        in _select(sizes, {INDEX: _index("model.safetensors-00001-of-00001.safetensors")}).files
    )


def test_a_single_file_is_preferred_to_an_index_of_other_files_as_transformers_does() -> None:
    sizes = {**BASE, INDEX: 1, "model-00001-of-00001.safetensors": 5}
    selection = _select(sizes, {INDEX: _index("model-00001-of-00001.safetensors")})
    assert "model.safetensors" in selection.files
    assert INDEX in selection.unused
    assert "model-00001-of-00001.safetensors" in selection.unused


def test_a_large_licence_is_not_taken() -> None:
    assert "LICENSE.pdf" in _select({**BASE, "LICENSE.pdf": 2_000_000}).unused


def test_python_files_are_taken_only_if_the_recipe_trusts_them() -> None:
    sizes = {**BASE, "modeling_x.py": 5, "examples/run.py": 5}
    assert "modeling_x.py" in _select(sizes).unused
    assert _select(sizes, trust_remote_code=True).files == ("config.json", "model.safetensors", "modeling_x.py", "tokenizer.json")


def test_pickle_weights_are_taken_only_if_the_recipe_allows_them() -> None:
    sizes = _without("model.safetensors", **{"pytorch_model.bin": 5, "training_args.bin": 1})
    with pytest.raises(SourceError, match=r"only pickle files.*pytorch_model\.bin") as caught:
        _select(sizes)
    assert "source.allow_pickle" in (caught.value.fix or "")
    allowed = _select(sizes, allow_pickle=True)
    assert "pytorch_model.bin" in allowed.files
    assert "training_args.bin" in allowed.unused


def test_sharded_pickle_weights_follow_their_index() -> None:
    index = "pytorch_model.bin.index.json"
    sizes = _without("model.safetensors", **{index: 1, "pytorch_model-1.bin": 5})
    assert "pytorch_model-1.bin" in _select(sizes, {index: _index("pytorch_model-1.bin")}, allow_pickle=True).files


def test_safetensors_are_preferred_to_allowed_pickle_files() -> None:
    assert "pytorch_model.bin" in _select({**BASE, "pytorch_model.bin": 5}, allow_pickle=True).unused


@pytest.mark.parametrize(
    ("sizes", "message", "fix"),
    [
        ({}, "has no files", "config.json"),
        (_without("config.json"), "has no config.json", "Hugging Face's layout"),
        (_without("config.json", **{"model_index.json": 1}), "has no config.json", "diffusion"),
        (_without("config.json", **{"adapter_config.json": 1}), "has no config.json", "merge it"),
        (_without("config.json", **{"7b/config.json": 1}), "has no config.json", "7b/"),
        (_without("tokenizer.json"), "no tokenizer.json", "add the tokenizer.json"),
        (_without("tokenizer.json", **{"tokenizer.model": 1}), "only tokenizer.model", "AutoTokenizer"),
        (_without("tokenizer.json", **{"vocab.json": 1, "merges.txt": 1}), "only merges.txt, vocab.json", "AutoTokenizer"),
        (_without("model.safetensors"), "has no weights that can be used", "model.safetensors"),
        (_without("model.safetensors", **{"m.gguf": 1}), "only m.gguf", "model.safetensors"),
        (_without("model.safetensors", **{"model-00001-of-00002.safetensors": 1}), f"no {INDEX}", "add the index"),
        (_without("model.safetensors", **{"model.fp16.safetensors": 1}), r"variants \(fp16\)", "model.safetensors"),
        (_without("model.safetensors", **{"model.bf16-00001-of-00002.safetensors": 1}), r"variants \(bf16\)", "standard names"),
        (_without("model.safetensors", **{"adapter_model.safetensors": 1}), "is an adapter", "merge it"),
        (_without("model.safetensors", **{"consolidated.safetensors": 1}), "own layout", "Hugging Face"),
        (_without("model.safetensors", **{"weights.safetensors": 1}), "neither model.safetensors nor", "standard name"),
    ],
)
def test_a_source_that_lacks_something_is_refused_naming_it_and_what_to_do(sizes: dict[str, int], message: str, fix: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        _select(sizes)
    assert caught.value.where == "hf://o/m"
    assert fix in (caught.value.fix or "")


def test_pickle_files_alone_name_what_could_be_used_when_none_has_a_standard_name() -> None:
    with pytest.raises(SourceError, match=r"no weights that can be used, only weights\.pt"):
        _select(_without("model.safetensors", **{"weights.pt": 1}), allow_pickle=True)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (_index("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), "shard 'model-00002-of-00002.safe"),
        (_index("weights.bin"), "no .safetensors file"),
        (_index("sub/a.safetensors"), "beside it"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": {}}', "no weight_map"),
        (b'{"weight_map": {"a": 1}}', "no weight_map"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "occurs twice"),
        (b"[]", "no weight_map"),
        (b"<html>", "not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
    ],
)
def test_a_bad_index_is_refused_naming_it(index: bytes, message: str) -> None:
    sizes = _without("model.safetensors", **{INDEX: 1, "model-00001-of-00002.safetensors": 5, "sub/a.safetensors": 5})
    with pytest.raises(SourceError, match=message) as caught:
        _select(sizes, {INDEX: index})
    assert caught.value.where == f"hf://o/m/{INDEX}"


@pytest.mark.parametrize("path", ["../evil.safetensors", "/etc/passwd", "a/../../b.safetensors", "..\\x.safetensors", "", "a//b"])
def test_an_index_that_names_a_path_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        _select(_without("model.safetensors", **{INDEX: 1}), {INDEX: _index(path)})


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "C:/x", "a\nb", "a\0b", ".", "", "LICENSE.\ud800"]
)
def test_a_listing_with_a_hostile_path_is_not_trusted_with_the_rest(path: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        _select({**BASE, path: 1})
    assert caught.value.where == repr(path)


@given(st.text(alphabet=["a", ".", "/", "\\", "\0", "é", ":"], max_size=12))
def test_no_listed_path_ever_selected_leaves_its_folder(path: str) -> None:
    try:
        selection = _select({**BASE, path: 1}, trust_remote_code=True)
    except UnsafePathError:
        assert not path or {"", ".", ".."} & set(path.split("/")) or set(path) & set("\\\0:")
        return
    for chosen in selection.files:
        assert "/" not in chosen
        assert chosen not in (".", "..")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "C:x",
        "C:/x",
        "a\\..\\x",
        "a/../../x",
        "a\0b",
        "a//b",
        "./config.json",
        "",
    ],
)
def test_a_listing_with_a_path_that_could_lead_out_is_refused_as_a_whole(path: str) -> None:
    with pytest.raises(UnsafePathError):
        _select({**BASE, path: 1})


def test_a_listing_with_a_file_and_a_folder_of_one_name_is_refused() -> None:
    with pytest.raises(UnsafePathError, match=r"lists 'config\.json' as a file and as a folder"):
        _select({**BASE, "config.json/x": 1})


@pytest.mark.parametrize(("one", "other"), [("LICENSE", "License"), ("NOTICE-\u00e9", "NOTICE-e\u0301")])
def test_two_needed_files_that_are_one_where_case_does_not_count_are_refused(one: str, other: str) -> None:
    with pytest.raises(UnsafePathError, match="where case does not count"):
        _select({**BASE, one: 1, other: 1})


def test_names_that_clash_among_what_no_build_needs_are_let_be() -> None:
    assert _select({**BASE, "readme.md": 1, "README.md": 1, "x" * 300: 1}).files == tuple(sorted(BASE))


def test_a_needed_file_with_a_name_of_300_characters_is_refused() -> None:
    shard = f"model-{'0' * 300}1-of-00001.safetensors"
    files = {**_without("model.safetensors"), INDEX: 9, shard: 9}
    with pytest.raises(UnsafePathError, match="more than 255 bytes"):
        _select(files, {INDEX: _index(shard)})


@pytest.mark.parametrize(
    "names",
    [["megatron_gpt.nemo", "README.md"], ["weights/common.pt", "context/model.yaml"], ["model_config.yaml", "model_weights/x"]],
)
def test_a_nemo_checkpoint_is_called_one(names: list[str]) -> None:
    with pytest.raises(SourceError, match=r"has no config\.json") as caught:
        select(dict.fromkeys(names, 1), read=lambda path: b"", where="x")
    assert "NeMo" in (caught.value.fix or "")


@pytest.mark.parametrize("path", ["tokenizer.json", "config.json", "vocab.json"])
def test_a_file_that_is_read_whole_and_too_large_for_that_is_refused_before_it_is_fetched(path: str) -> None:
    with pytest.raises(SourceError, match="has 10,000,000,000 bytes, too many") as caught:
        _select({**BASE, path: 10_000_000_000})
    assert (caught.value.where or "").endswith(f"/{path}")
