"""Which Triton models serve what a recipe builds, and what is set on each: one file a builder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enginepress.errors import RepositoryError
from enginepress.repository.values import ConfigValues

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)


@dataclass(frozen=True)
class ModelPlan:
    """One Triton model of a repository to be assembled.

    Attributes:
        source: folder inside the template that holds its config.pbtxt; "." is the template itself.
        values: what is set on the config.
        engine: folder inside the version folder that gets the engine's files, or None.
        tokenizer: folder inside the version folder that gets the tokenizer's files, or None.
        tokenizer_required: files without which the tokenizer is of no use.
        shared: files of other template folders, as <folder>/<path>, that go into the version folder under their own names.
        texts: files written into the version folder: name -> content.
    """

    source: str
    values: ConfigValues
    engine: str | None = None
    tokenizer: str | None = None
    tokenizer_required: tuple[str, ...] = field(default=("tokenizer.json",))
    shared: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


_PLANNERS = {
    "llmapi": "enginepress.repository.plans.llmapi",
    "onnxruntime": "enginepress.repository.plans.onnxruntime",
    "tensorrt_llm": "enginepress.repository.plans.tensorrt_llm",
    "vllm": "enginepress.repository.plans.vllm",
}


def plan_models(recipe: Recipe) -> tuple[ModelPlan, ...]:
    """The Triton models that serve what this recipe builds.

    Raises:
        RepositoryError: for a builder that has no template.
        RecipeError: for a serving parameter that does not exist or has an impossible value.
    """
    module = _PLANNERS.get(recipe.engine.builder)
    if module is None:
        raise RepositoryError(
            f"builder '{recipe.engine.builder}' has no model repository template in this version",
            where="engine.builder",
            fix="available: " + ", ".join(sorted(_PLANNERS)),
        )
    models: tuple[ModelPlan, ...] = importlib.import_module(module).plan(recipe)
    return models
