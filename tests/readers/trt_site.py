"""Two releases of a TensorRT-LLM repository in which every part tells which release it is of.

Their tokenizers number the same words differently and their engines (the stand-in of tests/serving/backends) say tokens of
their own. The answer holds the prompt, encoded by the preprocessing model and decoded by the postprocessing model, and the
engine's words: one wrong part anywhere, and it is another text.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.templates import template_folder
from tests.engines.checkpoints import make_checkpoint
from tests.serving.trt_repository import engine_folder, trt_recipe
from tests.templates.repository import build_engine

GENERATION = "tensorrt_llm_1_0"
PROMPT = "tell me a story about a dog"
INPUTS: dict[str, Any] = {"text_input": PROMPT, "max_tokens": 2, "exclude_input_in_output": False}


@dataclass(frozen=True)
class TrtRelease:
    """An unplaced repository and what it answers to INPUTS."""

    unplaced: Path
    recipe: Recipe
    says: str
    word: str


def trt_releases(folder: Path, words: tuple[str, str] = (" fox", " lazy")) -> list[TrtRelease]:
    """Two of them, which share the engine's weights."""
    checkpoint = make_checkpoint(folder / "checkpoint")
    genai = build_engine(checkpoint, folder / "genai")
    return [_release(folder / str(i), checkpoint, genai, word, other=bool(i)) for i, word in enumerate(words)]


def _release(folder: Path, checkpoint: Path, genai: Path, word: str, *, other: bool) -> TrtRelease:
    from tokenizers import Tokenizer

    mine = folder / "checkpoint"
    shutil.copytree(checkpoint, mine)
    if other:
        _renumber(mine / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(mine / "tokenizer.json"))
    tokens = tokenizer.encode(word, add_special_tokens=False).ids * 40
    recipe = trt_recipe(GENERATION, "tiny")
    unplaced = folder / "unplaced"
    unplaced.mkdir()
    engine = engine_folder(genai, folder / "engine")
    assemble(engine=engine, checkpoint=mine, recipe=recipe, output=unplaced, template=template_folder(GENERATION))
    config = unplaced / "tiny-engine" / "config.pbtxt"
    _add_parameter(config, "test_tokens", json.dumps(tokens))
    return TrtRelease(unplaced, recipe, PROMPT + tokenizer.decode(tokens[: INPUTS["max_tokens"]]), word)


def slowed(unplaced: Path, folder: Path, *, pause_ms: int) -> Path:
    """The same repository with a pause after each token."""
    shutil.copytree(unplaced, folder)
    _add_parameter(folder / "tiny-engine" / "config.pbtxt", "test_delay_ms", str(pause_ms))
    return folder


def _add_parameter(config: Path, key: str, value: str) -> None:
    config.write_text(config.read_text() + f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n')


def _renumber(path: Path) -> None:
    """The same words under other numbers: all but the special ones in reverse order."""
    data = json.loads(path.read_text())
    special = {token["id"] for token in data["added_tokens"]}
    vocabulary = data["model"]["vocab"]
    numbers = sorted(set(vocabulary.values()) - special)
    other = dict(zip(numbers, reversed(numbers), strict=True))
    data["model"]["vocab"] = {word: other.get(number, number) for word, number in vocabulary.items()}
    path.write_text(json.dumps(data))
