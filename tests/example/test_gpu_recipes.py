"""The example recipes for GPUs: each fits, is taken by its builder, and gives a repository that is valid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines import fit, get_builder
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.validate import validate

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "tests" / "fit" / "configs"
TINY = ROOT / "examples" / "checkpoints" / "tiny-llama"
MODELS = {
    "llama-3.1-8b": "llama-3.1-8b",
    "llama-3.3-70b": "llama-3.1-70b",  # of the same shapes
    "mixtral-8x7b": "mixtral-8x7b",
    "qwen2.5-7b": "qwen2.5-7b",
}
RECIPES = [path for path in sorted((ROOT / "examples" / "recipes").glob("*.yaml")) if not path.stem.startswith("laptop")]
each = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def _config(path: Path) -> dict[str, Any]:
    (model,) = [config for name, config in MODELS.items() if path.stem.startswith(name)]
    config: dict[str, Any] = json.loads((CONFIGS / f"{model}.json").read_text())
    return config


def test_there_is_a_recipe_for_each_builder_that_needs_a_gpu() -> None:
    assert {load_recipe(path).engine.builder for path in RECIPES} == {"tensorrt_llm", "llmapi", "vllm"}


@each
def test_it_fits_with_room_for_many_requests_and_its_builder_takes_it(path: Path) -> None:
    recipe, config = load_recipe(path), _config(path)
    plan = fit.check(config, recipe)
    assert plan.full_requests >= recipe.engine.limits.max_batch_size / 2
    builder = get_builder(recipe.engine.builder)
    builder.check(config, recipe)
    lines = builder.commands(config, recipe)
    assert bool(lines) == (recipe.engine.builder == "tensorrt_llm")


@each
def test_its_repository_is_valid_and_has_nothing_left_to_fill_in(path: Path, tmp_path: Path) -> None:
    recipe, config = load_recipe(path), _config(path)
    checkpoint, engine = tmp_path / "checkpoint", tmp_path / "engine"
    shutil.copytree(TINY, checkpoint)  # its tokenizer; the shapes are the model's own
    (checkpoint / "config.json").write_text(json.dumps(config))
    _make_engine(engine, checkpoint, config, recipe)
    (tmp_path / "unplaced").mkdir()
    assemble(engine=engine, checkpoint=checkpoint, recipe=recipe, output=tmp_path / "unplaced")
    write_placement(place(tmp_path / "unplaced", 1, str(tmp_path / "placed")), tmp_path / "placed")
    result = validate(tmp_path / "placed")
    assert [f for f in result.findings if f.severity != "info"] == []
    for file in (tmp_path / "placed").rglob("*.pbtxt"):
        assert "${" not in file.read_text()


def _make_engine(engine: Path, checkpoint: Path, config: dict[str, Any], recipe: Recipe) -> None:
    """What the builder would leave, without weights."""
    if recipe.engine.builder != "tensorrt_llm":
        shutil.copytree(checkpoint, engine)
        return
    engine.mkdir()
    asked = recipe.engine.parallelism
    world = asked.world_size
    for rank in range(world):
        (engine / f"rank{rank}.engine").write_bytes(b"no engine")
    written = {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": config["architectures"][0],
            "vocab_size": config["vocab_size"],
            "mapping": {"world_size": world, "tp_size": asked.tensor, "pp_size": asked.pipeline},
        },
        "build_config": {"max_batch_size": recipe.engine.limits.max_batch_size, "max_beam_width": 1},
    }
    (engine / "config.json").write_text(json.dumps(written))
