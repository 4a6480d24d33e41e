"""The example recipes and the reference that lies beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enginepress.recipe_file import load_recipe
from enginepress.serving.reference import Reference, make_reference, read_reference
from enginepress.sources.open import open_source

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPES = sorted(EXAMPLES.glob("recipes/laptop*.yaml"))
by_name = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def reference() -> Reference:
    return read_reference(EXAMPLES.joinpath("references", "tiny-llama.json").read_text(encoding="utf-8"))


def test_there_are_recipes_for_all_three_precisions() -> None:
    assert {load_recipe(path).engine.precision for path in RECIPES} == {"float32", "int8", "int4"}


@by_name
def test_a_recipe_loads_and_its_reference_answers_each_of_its_prompts(path: Path) -> None:
    prompts = load_recipe(path).checks.prompts
    assert len(prompts) == 5
    assert any(prompt.messages for prompt in prompts)
    for prompt in prompts:
        answer = reference().find(prompt)
        assert answer is not None, f"{prompt} is not in the reference"
        assert prompt.pattern is None or re.search(prompt.pattern, answer.answer)


@by_name
def test_the_reference_is_of_the_checkpoint_that_the_recipe_names(path: Path, tmp_path: Path) -> None:
    revision = open_source(load_recipe(path).source, cache=tmp_path).resolve()
    assert reference().revision == revision.digest


def test_the_reference_can_be_made_again() -> None:
    recipe = load_recipe(EXAMPLES / "recipes" / "laptop.yaml")
    again = make_reference(EXAMPLES / "checkpoints" / "tiny-llama", recipe, revision_digest=reference().revision, source="")
    assert read_reference(again).answers == reference().answers


def test_the_answers_of_the_first_recipe_are_long_enough_to_say_something() -> None:
    for answer in reference().answers:
        assert len(answer.tokens) >= 20
        assert len(answer.answer.split()) >= 10
