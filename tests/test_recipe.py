"""Recipes: what is accepted, what is refused and in which words, and what enters which digest."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from enginepress.canonical import parameter_json
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe, recipe_from_json, recipe_schema, travelling_json
from enginepress.recipe_messages import explain

MINIMAL = {"name": "tiny", "source": "file://checkpoint", "stores": ["file://store"]}


def _write(folder: Path, content: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _with(**changes: Any) -> dict[str, Any]:
    return {**MINIMAL, **changes}


def test_an_unserved_release_may_be_wanted_on_candidate_only(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = "name: m\nsource: file:///m\nstores: [file:///s]\nchecks: {served: false}\n"
    path.write_text(text)
    assert load_recipe(path).channels == ["candidate"]
    path.write_text(text + "channels: [candidate, production]\n")
    with pytest.raises(RecipeError, match="goes to channel candidate only, not to production"):
        load_recipe(path)


def test_a_minimal_recipe_has_sensible_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, MINIMAL))
    assert recipe.engine.builder == "onnxruntime"
    assert recipe.channels == ["candidate"]
    assert recipe.checks.served


def test_relative_places_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, _with(registry={"tracking_uri": "sqlite:///../ml.db"})))
    assert recipe.source.uri == f"file://{tmp_path}/checkpoint"
    assert recipe.stores[0].url == f"file://{tmp_path}/store"
    assert recipe.registry.tracking_uri == f"sqlite:///{tmp_path.parent}/ml.db"


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://u@h/db", "sqlite://", "databricks://profile", "my-plugin://x", "./runs"])
def test_any_tracking_uri_that_mlflow_or_a_plugin_may_know_is_taken(tmp_path: Path, uri: str) -> None:
    assert load_recipe(_write(tmp_path, _with(registry={"tracking_uri": uri}))).registry.tracking_uri == uri


def test_a_reference_that_is_no_json_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("all: run")
    with pytest.raises(RecipeError, match=r"no\.json: checks\.reference: is no reference, which is JSON") as caught:
        load_recipe(_write(tmp_path, _with(checks={"reference": "no.json"})))
    assert caught.value.fix == "make it with `enginepress reference RECIPE`"


@pytest.mark.parametrize("uri", ["file:///abs/x", "hf://org/name@main", "s3://bucket/x"])
def test_absolute_places_stay_as_they_are(tmp_path: Path, uri: str) -> None:
    assert load_recipe(_write(tmp_path, _with(source=uri))).source.uri == uri


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engin": {}}, ["engin", "did you mean 'engine'"]),
        ({"engine": {"precison": "int4"}}, ["engine.precison", "did you mean 'precision'", "line"]),
        ({"engine": {"builder": "onnx"}}, ["engine.builder", "'onnx'", "did you mean 'onnxruntime'"]),
        ({"engine": {"limits": {"max_batch_size": 0}}}, ["engine.limits.max_batch_size", "0"]),
        ({"engine": {"limits": {"max_batchsize": 4}}}, ["engine.limits.max_batchsize", "max_batch_size"]),
        ({"engine": {"limits": {"max_batch_size": 2.5}}}, ["max_batch_size", "must be a whole number, not 2.5"]),
        ({"engine": "onnxruntime"}, ["engine (line", "must be a mapping", "'onnxruntime'"]),
        ({"engine": {"container": 26.07}}, ["engine.container", "write it in quotes, as '26.07'"]),
        ({"engine": {"container": "26.7"}}, ["engine.container", "'26.7' is no Triton release"]),
        ({"source": {"uri": "ftp://x"}}, ["source.uri", "ftp://x", "starts with hf://, ngc://, s3:// or file://"]),
        ({"stores": ["/srv/models"]}, ["stores[0]", "'/srv/models' is no store: it starts with file:// or s3://"]),
        ({"name": None}, ["name", "is empty"]),
        ({"channels": "production"}, ["channels", "must be a list"]),
        ({"source": {}}, ["source.uri", "missing"]),
        ({"source": {"uri": "hf://a/b", "token": "hf_abc"}}, ["source.token", "environment variable"]),
        ({"source": "file://${HOME}/x"}, ["source", "secrets only"]),
        ({"stores": ["file://${PLACE}"]}, ["stores[0]", "secrets only"]),
        ({"stores": []}, ["stores"]),
        ({"stores": ["file://a", "file://a"]}, ["recipe.yaml: stores (line", "file://a is named twice"]),
        ({"stores": ["s3://bucket/x", "s3://bucket/x/"]}, ["s3://bucket/x is named twice"]),
        ({"stores": ["file://a", "file://b/../a/"]}, ["stores: file:///", "/a is named twice"]),
        ({"channels": ["candidate", "candidate"]}, ["recipe.yaml: channels (line", "candidate is named twice"]),
        ({"stores": ["srv/models"]}, ["did you mean 'file://srv/models'?"]),
        ({"source": "/srv/llama"}, ["did you mean 'file:///srv/llama'?"]),
        ({"source": "./llama"}, ["did you mean 'file://./llama'?"]),
        ({"source": "org/name@main"}, ["did you mean 'hf://org/name@main'?"]),
        ({"source": "https://huggingface.co/org/name"}, ["did you mean 'hf://org/name'?"]),
        ({"source": "https://huggingface.co/org/name/tree/v2.0"}, ["did you mean 'hf://org/name@v2.0'?"]),
        ({"registry": {"tracking_uri": "htp://host:5000"}}, ["registry.tracking_uri (line", "did you mean 'http://'?"]),
        ({"registry": {"tracking_uri": "localhost:5000"}}, ["has no scheme: write http://localhost:5000"]),
        ({"registry": {"tracking_uri": "sqlite://ml.db"}}, ["write sqlite:///ml.db, with three slashes"]),
        ({"checks": {"prompts": [{"text": ""}]}}, ["checks.prompts[0].text (line", "is empty: write a value"]),
        ({"stores": [{"url": "file://a", "mountt": "/x"}]}, ["stores[0].mountt", "'mount'"]),
        ({"channels": ["Prod uction"]}, ["channels[0]", "'Prod uction' is no name for a channel", "lower-case letters"]),
        ({"channels": ["latest"]}, ["channels[0]", "MLflow"]),
        ({"channels": ["v7"]}, ["channels[0]", "MLflow"]),
        ({"name": "../evil"}, ["name", "../evil"]),
        ({"name": "UPPER"}, ["name (line", "'UPPER' is no name for a model", "lower-case letters, digits"]),
        ({"checks": {"prompts": [{}]}}, ["checks.prompts[0]", "either text or messages"]),
        ({"checks": {"prompts": [{"text": "a", "pattern": "("}]}}, ["pattern", "regular expression"]),
        ({"checks": {"min_agreement": 2}}, ["checks.min_agreement"]),
        ({"checks": {"reference": "no.json"}}, ["no.json", "does not exist"]),
    ],
)
def test_a_wrong_recipe_is_refused_in_words_that_help(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(_write(tmp_path, _with(**change)))
    text = f"{caught.value} {caught.value.fix}"
    assert "recipe.yaml" in text or "no.json" in text
    for word in words:
        assert word in text
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "mapping"),
        ("- a\n- b\n", "mapping"),
        ("name: [\n", "line"),
        ("name: a\nname: b\n", "occurs twice"),
        ("\x00\x01", "YAML"),
        ("[" * 5000, "nested too deeply"),
        ("x: &a [*a]\n", "aliases"),
        ("name: a\nx: 2020-13-45\n", "line 2: 2020-13-45 cannot be read: month must be in 1..12"),
        ("x: " + "9" * 5000, "line 1: " + "9" * 40 + "… cannot be read"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
    ids=["empty", "list", "broken", "twice", "binary", "deep", "recursive", "date", "digits", "code"],
)
def test_what_is_no_recipe_is_refused_without_a_traceback(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(_write(tmp_path, content))
    assert word in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.yaml"):
        load_recipe(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "binary.yaml")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(_write(tmp_path, {"name": "x", "source": "bad", "stores": ["worse"], "what": 1}))
    assert "3 things are wrong" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("texts.jsonl", "", ["texts.jsonl: ", "engine.calibration.data: holds no text", 'object such as {"text": "..."}']),
        ("texts.txt", "\n\n", ["holds no text", "each line is one text"]),
        ("texts.jsonl", '{"text": "one"}\n{"text": ', ["texts.jsonl:2: ", "is not JSON", 'object such as {"text": "..."}']),
        ("texts.jsonl", '{"prompt": "one"}\n', ["texts.jsonl:1: ", "has no 'text'", 'object such as {"text": "..."}']),
    ],
)
def test_calibration_texts_that_cannot_be_used_are_found_with_the_recipe(
    name: str, content: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(_write(tmp_path, _with(engine={"calibration": {"data": name}})))
    for word in words:
        assert word in f"{caught.value}; {caught.value.fix}"


def test_calibration_texts_are_named_by_place_and_digest(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    engine = {"calibration": {"data": "texts.txt"}}
    calibration = load_recipe(_write(tmp_path, _with(engine=engine))).engine.calibration
    assert calibration is not None
    assert calibration.data == str(tmp_path / "texts.txt")
    assert calibration.sha256 == hashlib.sha256(b"one\n").hexdigest()


def test_a_recipe_travels_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, _with(source="file:///usr/lib/python3/models", description="{{$.x}} python3 it's")))
    text = travelling_json(recipe)
    assert "python3" not in text
    assert "{{$" not in text
    assert recipe_from_json(text, recipe.digest()) == recipe


def test_a_recipe_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, MINIMAL))
    with pytest.raises(RecipeError, match="changed on its way"):
        recipe_from_json(travelling_json(recipe).replace("tiny", "tinz"), recipe.digest())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_parameter_json_survives_the_runners_rewriting(value: Any) -> None:
    text = parameter_json(value)
    assert json.loads(text.replace("python3", "/usr/bin/python")) == value
    assert "{{$" not in text


@pytest.mark.parametrize(
    ("change", "build_changes", "checks_change"),
    [
        ({"description": "words"}, False, False),
        ({"channels": ["production"]}, False, False),
        ({"stores": ["file://elsewhere"]}, False, False),
        ({"registry": {"tracking_uri": "http://x"}}, False, False),
        ({"checks": {"min_agreement": 0.5}}, False, True),
        ({"engine": {"precision": "int4"}}, True, False),
        ({"engine": {"precision": "float32"}}, False, False),
        ({"serving": {"max_concurrent_requests": 3}}, True, False),
        ({"name": "other"}, True, False),
        ({"source": "file://elsewhere"}, False, False),
    ],
)
def test_each_part_of_a_recipe_enters_the_right_digest(change: dict[str, Any], build_changes: bool, checks_change: bool) -> None:
    before, after = Recipe.model_validate(MINIMAL), Recipe.model_validate(_with(**change))
    assert (before.build_fields() != after.build_fields()) == build_changes
    assert (before.checks_digest() != after.checks_digest()) == checks_change


def test_the_schema_knows_every_field_and_refuses_unknown_ones() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False


def _patterns(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
        return own.union(*map(_patterns, schema.values()))
    return set().union(*map(_patterns, schema)) if isinstance(schema, list) else set()


@pytest.mark.parametrize("pattern", sorted(_patterns(recipe_schema())))
def test_no_regular_expression_is_shown_to_a_user(pattern: str) -> None:
    error: Any = {"type": "string_pattern_mismatch", "loc": ("x",), "input": " !", "ctx": {"pattern": pattern}, "msg": ""}
    assert pattern not in explain(error)


@given(st.text())
def test_any_text_is_either_a_recipe_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(text, encoding="utf-8", errors="ignore")
        with pytest.raises(RecipeError):
            load_recipe(path)


def _field_names(schema: dict[str, Any]) -> set[str]:
    models = [schema, *schema["$defs"].values()]
    return {name for model in models for name in model.get("properties", {})}


@pytest.mark.parametrize("field", sorted(_field_names(recipe_schema())))
def test_every_field_of_a_recipe_is_in_its_documentation(field: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text()
    assert re.search(rf"`([a-z_]+\.)*{field}(\.[a-z_]+)*`", text), f"docs/recipe.md does not say what {field} is"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("additional_config: {1: 2}", "additional_config has a key that is no text, 1: write it in quotes"),
        ("additional_config: {x: [2020-01-01]}", r"additional_config.x\[0\] is a date, and must be text"),
        ("additional_config: {x: !!binary aGVsbG8=}", "additional_config.x is binary data"),
        ("additional_config: {x: !!set {a, b}}", "additional_config.x is a set"),
        ('additional_config: {"a\\nb": 1}', "has a key that cannot be printed"),
        ("seed: .nan", "seed is nan, which is no number"),
        ("seed: -.inf", "seed is -inf"),
        ("seed: 36893488147419103232", "seed is a number of more than 64 bits"),
        ('seed: "\\ud800"', "seed holds half a character"),
        ("additional_config: " + "[" * 40 + "]" * 40, "additional_config holds more than 32 mappings or lists inside each other"),
    ],
)
def test_values_of_arguments_that_yaml_can_say_and_json_cannot_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = _write(tmp_path, f"{yaml.safe_dump(MINIMAL)}serving:\n  engine_args:\n    {text}\n")
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert "serving.engine_args (line " in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": {"parameters": {"kv_cache_free_gpu_mem_fraction": float("nan")}}},
        {"engine": {"options": {"convert": {"smoothquant": float("inf")}}}},
        {"checks": {"load": {"max_first_token_ms": float("inf")}}},
    ],
)
def test_a_number_that_no_digest_can_be_made_of_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="number"):
        load_recipe(_write(tmp_path, _with(**changes)))
