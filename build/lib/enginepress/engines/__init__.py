"""Builders: what makes an engine of a checkpoint. One file a builder; `get_builder` imports it when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from enginepress.errors import RecipeError
from enginepress.recipe import Recipe


class Builder(Protocol):
    """What a builder can be asked.

    Attributes:
        name: as in the recipe.
    """

    name: str

    def template(self, recipe: Recipe) -> str:
        """The folder in `model_repo_templates/` that serves this recipe's engine."""

    def converts(self, recipe: Recipe) -> bool:
        """False if `convert` has nothing to do for this recipe, so that the step passes its input through."""

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        """Refuses what it cannot build or run, before any weight is downloaded. `config`: the checkpoint's config.json.

        Raises:
            UnsupportedModelError: naming the value, and the builders that can.
            RecipeError: for a precision or limit that it cannot do.
        """

    def declared(self, recipe: Recipe) -> dict[str, str]:
        """Names and versions of everything that may change the engine, as it will be where the build runs: part of the build
        key. Made where no GPU and no builder need be at hand; imports none of it.

        Raises:
            RecipeError: if no environment can do what the recipe asks, or this builder always builds here and is not installed.
        """

    def installed(self, recipe: Recipe) -> dict[str, str]:
        """The same names, with what is really here. Asked before work is done, and compared with what was declared.

        Raises:
            BuildError: if it is not here, with what to do.
        """

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """More about where the build runs that does not change what is built (driver, image digest): kept beside the engine."""

    def served_by(self, recipe: Recipe) -> list[str]:
        """What can serve its engines, in words and versions, for the manifest."""

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        """The command lines that a build would run, for plans; empty where they are no news. Pure.

        Raises:
            RecipeError, UnsupportedModelError: as `check` does.
        """

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        """Checkpoint to an intermediate form in the empty folder `output`; the tool's output is kept in `log`."""

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        """Converted checkpoint (or the checkpoint, if it does not convert) to an engine in the empty folder `output`.

        Raises:
            BuildError: with the last lines of the log.
        """


_BUILDERS = {
    "llmapi": "enginepress.engines.llmapi",
    "onnxruntime": "enginepress.engines.onnxruntime",
    "tensorrt_llm": "enginepress.engines.tensorrt_llm",
    "vllm": "enginepress.engines.vllm",
}


def get_builder(name: str) -> Builder:
    """The builder of this name.

    Raises:
        RecipeError: for a builder that this version does not have.
    """
    module = _BUILDERS.get(name)
    if module is None:
        raise RecipeError(
            f"builder '{name}' is not available in this version",
            where="engine.builder",
            fix="available: " + ", ".join(sorted(_BUILDERS)),
        )
    builder: Builder = importlib.import_module(module).builder()
    return builder


_asking: ContextVar[bool] = ContextVar("asking other builders", default=False)


def can_build(config: Mapping[str, Any], recipe: Recipe, *, but: str) -> list[str]:
    """Names of the other builders that would take this checkpoint, in the recipe's container (for error messages)."""
    from enginepress.engines.versions import choose, load_matrix
    from enginepress.errors import EnginepressError

    if _asking.get():  # a builder that is asked here asks nobody in turn
        return []
    token = _asking.set(True)
    found = []
    try:
        for name in sorted(_BUILDERS):
            if name != but:
                try:
                    if recipe.engine.container is not None and load_matrix().kind(name) is not None:
                        choose(recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"builder": name})}))
                    get_builder(name).check(config, recipe)
                except EnginepressError:
                    continue
                found.append(name)
    finally:
        _asking.reset(token)
    return found
