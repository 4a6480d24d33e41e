"""Engine, tokenizer and template become an unplaced repository, the same every time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from enginepress.errors import RepositoryError
from enginepress.files import hash_folder
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble, template_digest
from enginepress.repository.config import parse_config
from enginepress.repository.place import content_digest_of
from enginepress.repository.plans.onnxruntime import SHARED
from enginepress.repository.templates import template_files, template_folder
from enginepress.repository.validate import validate
from tests.repository import samples

SHARED_NAMES = sorted(path.split("/")[-1] for path in SHARED)

TEMPLATE_CONFIG = (
    'name: "template"\nbackend: "python"\nversion_policy { latest { num_versions: 1 } }\n'
    + samples.tensor("input", "text_input", "STRING", [1], "optional")
    + samples.tensor("output", "text_output", "STRING", [1])
    + "model_transaction_policy { decoupled: true }\ninstance_group { kind: KIND_CPU }\n"
    + samples.parameter("threads", "1")
)


def _recipe(**serving: int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": "hf://org/name",
            "stores": ["file:///srv"],
            "serving": serving,
            "engine": {"limits": {"max_batch_size": 8}},
        }
    )


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    genai = {path.split("/", 2)[2]: content for path, content in samples.genai("0").items() if path.count("/") > 1}
    samples.write(tmp_path, {path: content for path, content in genai.items() if path.startswith("engine/")})
    samples.write(
        tmp_path / "checkpoint",
        {"tokenizer.json": '{"version": "1.0"}', "config.json": "{}", "chat_template.jinja": "", "model.safetensors": "weights"},
    )
    template = {
        "config.pbtxt": TEMPLATE_CONFIG,
        "model.py": samples.PYTHON_MODEL,
        "helpers/text.py": "A = 1\n",
        "__init__.py": "",
    }
    samples.write(tmp_path / "template", {**template, "__pycache__/model.cpython-311.pyc": b"x"})
    return {"engine": tmp_path / "engine", "checkpoint": tmp_path / "checkpoint", "template": tmp_path / "template"}


def test_the_repository_has_the_agreed_layout_and_nothing_else(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(**parts, recipe=_recipe(), output=tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "tiny/0/engine/genai_config.json",
        "tiny/0/engine/model.onnx",
        "tiny/0/engine/model.onnx.data",
        "tiny/0/helpers/text.py",
        *(f"tiny/0/{name}" for name in SHARED_NAMES),
        "tiny/0/model.py",
        "tiny/0/tokenizer/chat_template.jinja",
        "tiny/0/tokenizer/config.json",
        "tiny/0/tokenizer/tokenizer.json",
        "tiny/config.pbtxt",
    ]


def test_the_recipe_values_stand_in_the_config(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(**parts, recipe=_recipe(threads=3, max_concurrent_requests=5), output=tmp_path / "out")
    config = parse_config((tmp_path / "out/tiny/config.pbtxt").read_text(), "c")
    values = {key: parameter.string_value for key, parameter in config.parameters.items()}
    assert config.name == "tiny"
    assert values == {
        "max_concurrent_requests": "5",
        "max_tokens_default": "128",
        "slow_path_requests": "2",
        "max_batch_size": "8",
        "threads": "3",
        "max_sequence_length": "",
    }
    assert not config.HasField("version_policy")
    assert config.model_transaction_policy.decoupled


def test_equal_inputs_give_equal_bytes_wherever_they_lie(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(**parts, recipe=_recipe(), output=tmp_path / "one")
    moved = {name: Path(shutil.copytree(path, tmp_path / "moved" / name)) for name, path in parts.items()}
    assemble(**moved, recipe=_recipe(), output=tmp_path / "two")
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    assert content_digest_of(tmp_path / "one") == content_digest_of(tmp_path / "two")


def test_weights_are_linked_and_the_template_is_copied(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(**parts, recipe=_recipe(), output=tmp_path / "out")
    assert os.path.samefile(parts["engine"] / "model.onnx.data", tmp_path / "out/tiny/0/engine/model.onnx.data")
    assert os.path.samefile(parts["checkpoint"] / "tokenizer.json", tmp_path / "out/tiny/0/tokenizer/tokenizer.json")
    assert not os.path.samefile(parts["template"] / "model.py", tmp_path / "out/tiny/0/model.py")


def test_what_was_assembled_is_valid_and_unplaced(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(**parts, recipe=_recipe(), output=tmp_path / "out")
    result = validate(tmp_path / "out")
    assert result.kind == "unplaced"
    assert [finding for finding in result.findings if finding.severity != "info"] == []


def test_the_installed_template_is_served_with_the_recipe_values(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(engine=parts["engine"], checkpoint=parts["checkpoint"], recipe=_recipe(threads=3), output=tmp_path / "out")
    result = validate(tmp_path / "out")
    assert [finding for finding in result.findings if finding.severity != "info"] == []
    served = {p.name for p in (tmp_path / "out/tiny/0").iterdir()}
    own = {p.split("/")[0] for p in template_files(template_folder("onnxruntime"))} - {"config.pbtxt"}
    assert served == {*own, *SHARED_NAMES, "engine", "tokenizer"}
    config = parse_config((tmp_path / "out/tiny/config.pbtxt").read_text(), "c")
    assert config.parameters["threads"].string_value == "3"


def test_a_checkpoint_without_tokenizer_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    (parts["checkpoint"] / "tokenizer.json").unlink()
    with pytest.raises(RepositoryError, match=r"has no tokenizer\.json"):
        assemble(**parts, recipe=_recipe(), output=tmp_path / "out")


@pytest.mark.parametrize(
    "make", [lambda p: shutil.rmtree(p), lambda p: [f.unlink() for f in p.iterdir()]], ids=["missing", "empty"]
)
def test_an_engine_without_files_is_refused(parts: dict[str, Path], tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(parts["engine"])
    with pytest.raises(RepositoryError, match="engine folder has no files"):
        assemble(**parts, recipe=_recipe(), output=tmp_path / "out")


def test_a_template_with_a_placeholder_is_refused_naming_the_file(parts: dict[str, Path], tmp_path: Path) -> None:
    (parts["template"] / "config.pbtxt").write_text(TEMPLATE_CONFIG + "max_batch_size: ${size}\n")
    with pytest.raises(RepositoryError, match=r"\$\{size\} was never filled") as caught:
        assemble(**parts, recipe=_recipe(), output=tmp_path / "out")
    assert caught.value.where == str(parts["template"] / "config.pbtxt")


def test_a_builder_without_template_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    recipe = _recipe().model_copy(update={"engine": _recipe().engine.model_copy(update={"builder": "sglang"})})
    with pytest.raises(RepositoryError, match="'sglang' has no model repository template"):
        assemble(**parts, recipe=recipe, output=tmp_path / "out")


def test_the_template_digest_covers_the_files_that_are_served(parts: dict[str, Path]) -> None:
    assert list(template_files(parts["template"])) == ["config.pbtxt", "helpers/text.py", "model.py"]
    assert len(template_digest("onnxruntime")) == 64
    assert "__init__.py" not in set(template_files(template_folder("onnxruntime")))


@pytest.mark.parametrize("name", ["nope", "..", "", "a/b"])
def test_an_unknown_template_is_refused(name: str) -> None:
    with pytest.raises(RepositoryError, match="no model repository template"):
        template_digest(name)
