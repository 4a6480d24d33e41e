"""Numbers and paths: written, taken out again, and never anything else changed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.errors import RepositoryError
from enginepress.files import content_digest, hash_folder
from enginepress.repository import Placement
from enginepress.repository.config import parse_config
from enginepress.repository.place import content_digest_of, place, unplaced_entries, unplaced_files, write_placement
from tests.repository import samples

Files = dict[str, str | bytes]
BUILDS: list[Callable[[str], Files]] = [
    samples.chain, samples.onnx, samples.genai, samples.tensorrt_llm, samples.vllm, samples.llmapi
]  # fmt: skip

ROOTS = st.none() | st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\x7f"), max_size=30).map(
    lambda text: "/" + text
)


def _content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _content_of(placement: Placement) -> dict[str, bytes]:
    return {**placement.written, **{path: source.read_bytes() for path, source in placement.linked.items()}}


def _canonical(folder: Path, files: Files) -> Path:
    """The files as `assemble` would write them: in the one way in which place writes configs."""
    samples.write(folder / "raw", files)
    write_placement(unplaced_files(folder / "raw"), folder / "unplaced", link="copy")
    return folder / "unplaced"


@pytest.fixture(params=BUILDS, ids=lambda build: build.__name__)
def unplaced(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return _canonical(tmp_path, request.param("0"))


@given(
    build=st.sampled_from(BUILDS),
    number=st.integers(1, 10**15),
    again=st.integers(1, 10**6),
    root=ROOTS,
    other=ROOTS,
    side_by_side=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_placing_is_undone_exactly_from_any_form(
    build: Callable[[str], Files], number: int, again: int, root: str | None, other: str | None, side_by_side: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        original = _canonical(Path(scratch), build("0"))
        placed, release = Path(scratch, "placed"), Path(scratch, "release")
        write_placement(place(original, number, root, side_by_side=side_by_side), placed)
        assert _content_of(unplaced_files(placed)) == _content(original)
        assert content_digest_of(placed) == content_digest_of(original)
        # What is placed already is placed anew, as if it came from the unplaced form.
        write_placement(place(placed, again, other), release)
        assert _content(release) == _content_of(place(original, again, other))


@given(root=ROOTS, number=st.integers(1, 10**9))
@settings(max_examples=20, deadline=None)
def test_placing_twice_gives_equal_results(root: str | None, number: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = _canonical(Path(scratch), samples.vllm("0"))
        assert place(folder, number, root) == place(folder, number, root)


def test_the_digest_of_an_unplaced_folder_is_that_of_its_files(unplaced: Path) -> None:
    assert content_digest_of(unplaced) == content_digest(hash_folder(unplaced))


def test_the_digest_changes_with_any_byte_and_any_setting(unplaced: Path) -> None:
    before = content_digest_of(unplaced)
    for path in sorted(p for p in unplaced.rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.write_bytes(b"max_batch_size: 3\n" if path.name == "config.pbtxt" else content[:-2] + b"1" + content[-2:])
        try:
            assert content_digest_of(unplaced) != before, path
        except RepositoryError:
            assert path.name in ("model.json", "model.yaml"), path
        path.write_bytes(content)
    assert content_digest_of(unplaced) == before


def test_known_entries_are_taken_instead_of_hashing_again(unplaced: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    write_placement(place(unplaced, 7, None), release)
    known = {entry.path: entry for entry in hash_folder(release)}
    assert unplaced_entries(release, known=known) == unplaced_entries(unplaced)


def test_every_number_is_written(unplaced: Path) -> None:
    placement = place(unplaced, 7, None)
    models = {path.split("/")[0] for path in placement.written if path.endswith("/config.pbtxt")}
    for path in _content_of(placement):
        assert path.split("/")[1] in ("7", "config.pbtxt"), path
    for model in models:
        config = parse_config(placement.written[f"{model}/config.pbtxt"], model)
        assert list(config.version_policy.specific.versions) == [7]
        for step in config.ensemble_scheduling.step:
            assert step.model_version == 7


def test_side_by_side_the_models_behind_others_carry_the_number_in_their_names(tmp_path: Path) -> None:
    folder = samples.write(tmp_path, samples.tensorrt_llm("0"))
    placement = place(folder, 7, "/srv/models", side_by_side=True)
    models = {path.split("/")[0] for path in _content_of(placement)}
    behind = {"llama-engine.r7", "llama-preprocessing.r7", "llama-postprocessing.r7"}
    assert models == {"llama", "llama-bls", *behind}
    values = _path_values(placement)
    assert values["llama-engine.r7/config.pbtxt:gpt_model_path"] == "/srv/models/./llama-engine.r7/7/engine"
    assert values["llama-postprocessing.r7/config.pbtxt:tokenizer_dir"] == "/srv/models/./llama-preprocessing.r7/7/tokenizer"
    steps = parse_config(placement.written["llama/config.pbtxt"], "llama").ensemble_scheduling.step
    assert {step.model_name for step in steps} == behind
    called = parse_config(placement.written["llama-bls/config.pbtxt"], "llama-bls").parameters
    assert called["tensorrt_llm_model_name"].string_value == "llama-engine.r7"
    for model in models:
        assert parse_config(placement.written[f"{model}/config.pbtxt"], model).name == model


def test_a_model_that_nobody_calls_keeps_its_name_side_by_side(tmp_path: Path) -> None:
    folder = samples.write(tmp_path, samples.onnx("0"))
    assert place(folder, 7, "/srv/models", side_by_side=True) == place(folder, 7, "/srv/models")


def test_steps_of_models_that_are_elsewhere_keep_their_version(tmp_path: Path) -> None:
    files = samples.chain("0")
    del files["third/config.pbtxt"], files["third/0/model.py"]
    placement = place(samples.write(tmp_path, files), 7, None)
    config = parse_config(placement.written["chain/config.pbtxt"], "chain")
    assert [step.model_version for step in config.ensemble_scheduling.step] == [7, 7, -1]


def _path_values(placement: Placement) -> dict[str, str]:
    found = {}
    for file, content in placement.written.items():
        if file.endswith("config.pbtxt"):
            config = parse_config(content, file)
            for key in ("gpt_model_path", "tokenizer_dir", "encoder_model_path"):
                if key in config.parameters:
                    found[f"{file}:{key}"] = config.parameters[key].string_value
        else:
            found[f"{file}:model"] = json.loads(content)["model"]
    return found


@pytest.mark.parametrize(
    ("root", "before"),
    [
        (None, "./"),
        ("/srv/models", "/srv/models/./"),
        ("/srv/models/", "/srv/models/./"),
        ("/", "/./"),
        ("//srv/./models/../other", "/srv/other/./"),
        ('/with "quotes" and ünïcode', '/with "quotes" and ünïcode/./'),
    ],
)
def test_paths_get_the_readers_root_and_the_number(tmp_path: Path, root: str | None, before: str) -> None:
    folder = samples.write(tmp_path / "trt", samples.tensorrt_llm("0"))
    values = _path_values(place(folder, 7, root))
    assert values["llama-engine/config.pbtxt:gpt_model_path"] == f"{before}llama-engine/7/engine"
    assert values["llama-postprocessing/config.pbtxt:tokenizer_dir"] == f"{before}llama-preprocessing/7/tokenizer"
    assert values["llama-engine/config.pbtxt:encoder_model_path"] == ""
    folder = samples.write(tmp_path / "vllm", samples.vllm("0"))
    assert _path_values(place(folder, 7, root))["chat/7/model.json:model"] == f"{before}chat/7/checkpoint"


@pytest.mark.parametrize(
    "value", ["/opt/engine", "/opt/./elsewhere/engine", "./elsewhere/0/engine", "org/name", "llama-engine/0/engine"]
)
def test_paths_that_do_not_lead_into_the_repository_stay_as_they_are(tmp_path: Path, value: str) -> None:
    files = samples.tensorrt_llm("0")
    config = str(files["llama-engine/config.pbtxt"]).replace("./llama-engine/0/engine", value)
    folder = samples.write(tmp_path, {**files, "llama-engine/config.pbtxt": config})
    for placement in (place(folder, 7, "/srv"), unplaced_files(folder)):
        assert _path_values(placement)["llama-engine/config.pbtxt:gpt_model_path"] == value


@pytest.mark.parametrize("root", ["relative", "", "./x", "/with\nnewline", "/with\0nul"])
def test_a_root_that_is_no_absolute_path_is_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(RepositoryError, match="absolute path"):
        place(samples.write(tmp_path, samples.onnx("0")), 1, root)


@pytest.mark.parametrize("number", [0, -1])
def test_a_release_number_below_one_is_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(RepositoryError, match="start at 1"):
        place(samples.write(tmp_path, samples.onnx("0")), number, None)


# ------------------------------------------------------------------------------------------------------------------
# What cannot be placed
# ------------------------------------------------------------------------------------------------------------------


def _without_version(folder: Path) -> None:
    (folder / "scorer/0/model.onnx").unlink()
    (folder / "scorer/0").rmdir()


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "two versions": (lambda f: samples.write(f, {"scorer/3/model.onnx": "x"}), "has the versions 0, 3"),
    "no version": (_without_version, "has no version folder"),
    "empty version": (lambda f: (f / "scorer/0/model.onnx").unlink(), "is an empty version folder"),
    "another model with another version": (
        lambda f: samples.write(f, {"b/config.pbtxt": "", "b/4/x": ""}),
        "different versions: b has 4, scorer has 0",
    ),
    "no models": (lambda f: (f / "scorer/config.pbtxt").unlink(), "has no models"),
    "unreadable config": (lambda f: (f / "scorer/config.pbtxt").write_text("nonsense: 1"), "has no field 'nonsense'"),
    "link out": (lambda f: (f / "scorer/0/passwd").symlink_to("/etc/passwd"), "leads out of the repository"),
    "link to a folder": (lambda f: (f / "scorer/0/etc").symlink_to("/etc"), "leads out of the repository"),
    "broken link": (lambda f: (f / "scorer/0/gone").symlink_to("nowhere"), "link to nothing"),
    "link to itself": (lambda f: (f / "scorer/0/loop").symlink_to("loop"), "link to nothing"),
    "pipe": (lambda f: os.mkfifo(f / "scorer/0/pipe"), "neither a file nor a real folder"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_what_is_no_single_release_is_refused_naming_the_place(tmp_path: Path, case: str) -> None:
    mutate, message = BROKEN[case]
    folder = samples.write(tmp_path, samples.onnx("0"))
    mutate(folder)
    with pytest.raises(RepositoryError, match=message) as caught:
        place(folder, 1, None)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("model.json", "[1]"), ("model.json", "{"), ("model.yaml", "a: [")])
def test_a_path_file_that_is_no_mapping_is_refused(tmp_path: Path, name: str, content: str) -> None:
    folder = samples.write(tmp_path, {**samples.vllm("0"), f"chat/0/{name}": content})
    with pytest.raises(RepositoryError, match=r"mapping|cannot be read"):
        place(folder, 1, None)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="not a folder"):
        unplaced_files(tmp_path / "missing")


# ------------------------------------------------------------------------------------------------------------------
# Writing
# ------------------------------------------------------------------------------------------------------------------


def test_unchanged_files_are_hard_links_and_configs_are_new_files(tmp_path: Path) -> None:
    folder = samples.write(tmp_path / "a", samples.onnx("0"))
    os.utime(folder / "scorer/config.pbtxt", (0, 0))
    write_placement(place(folder, 7, None), tmp_path / "b", sync=True)
    assert os.path.samefile(folder / "scorer/0/model.onnx", tmp_path / "b/scorer/7/model.onnx")
    assert (tmp_path / "b/scorer/config.pbtxt").stat().st_mtime > 1_000_000_000


def test_symbolic_links_are_relative_and_count_as_the_files_that_they_lead_to(tmp_path: Path) -> None:
    store = tmp_path / "store"
    release = samples.write(store / "releases/7/repository", samples.genai("7"))
    placement = place(release, 7, "/srv")
    write_placement(placement, store / "activations/a", link="symlink")
    link = store / "activations/a/tiny/7/engine/model.onnx"
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert content_digest_of(store / "activations/a") == content_digest_of(release)
    store.rename(tmp_path / "mounted elsewhere")
    moved = tmp_path / "mounted elsewhere/activations/a"
    assert content_digest_of(moved) == content_digest_of(tmp_path / "mounted elsewhere/releases/7/repository")
    # Placing what was placed by links leads to the files, not to the links.
    write_placement(place(moved, 8, None), tmp_path / "again", link="symlink")
    assert (tmp_path / "again/tiny/8/engine/model.onnx").resolve().parts[-5:-4] == ("repository",)


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    folder = samples.write(tmp_path / "a", samples.onnx("0"))
    write_placement(place(folder, 7, None), tmp_path / "b", link="copy")
    copy = tmp_path / "b/scorer/7/model.onnx"
    assert not copy.is_symlink()
    assert not os.path.samefile(folder / "scorer/0/model.onnx", copy)
    assert copy.read_bytes() == (folder / "scorer/0/model.onnx").read_bytes()


def test_where_hard_links_are_impossible_a_relative_link_is_made(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    folder = samples.write(tmp_path / "a", samples.onnx("0"))
    with tempfile.TemporaryDirectory(dir=other) as scratch:
        write_placement(place(folder, 1, scratch), Path(scratch, "gate"))
        placed = Path(scratch, "gate/scorer/1/model.onnx")
        assert placed.is_symlink()
        assert placed.read_bytes() == (folder / "scorer/0/model.onnx").read_bytes()
        assert content_digest_of(Path(scratch, "gate")) == content_digest_of(folder)


def test_nothing_is_written_into_a_folder_with_files(tmp_path: Path) -> None:
    folder = samples.write(tmp_path / "a", samples.onnx("0"))
    samples.write(tmp_path / "b", {"precious": "x"})
    with pytest.raises(RepositoryError, match="not empty"):
        write_placement(place(folder, 7, None), tmp_path / "b")
    assert _content(tmp_path / "b") == {"precious": b"x"}


def test_a_full_disk_is_said_in_words() -> None:
    with pytest.raises(RepositoryError, match="writing the placed repository failed"):
        write_placement(Placement(1, {"a/config.pbtxt": b""}), Path("/proc/enginepress"))
