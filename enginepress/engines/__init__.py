"""Builders: what makes an engine of a checkpoint. One file a builder; `get_builder` imports it when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from enginepress.errors import RecipeError
from enginepress.recipe import Recipe


class Builder(Protocol):
    """What a builder can be asked.

    Attributes:
        name: as in the recipe.
        template: folder in `model_repo_templates/` that serves its engines.
        converts: False if `convert` has nothing to do, so that the step passes its input through.
    """

    name: str
    template: str
    converts: bool

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        """Refuses what it cannot build or run, before any weight is downloaded. `config`: the checkpoint's config.json.

        Raises:
            UnsupportedModelError: naming the value, and the builders that can.
            RecipeError: for a precision or limit that it cannot do.
        """

    def environment(self) -> dict[str, str]:
        """Names and versions of everything installed that can change the engine. Imports none of it.

        Raises:
            RecipeError: if it is not installed, with the command that installs it.
        """

    def convert(self, checkpoint: Path, output: Path, recipe: Recipe, log: Path) -> None:
        """Checkpoint to an intermediate form in the empty folder `output`; the tool's output is kept in `log`."""

    def build(self, source: Path, output: Path, recipe: Recipe, log: Path) -> None:
        """Converted checkpoint (or the checkpoint, if it does not convert) to an engine in the empty folder `output`.

        Raises:
            BuildError: with the last lines of the log.
        """


_BUILDERS = {"onnxruntime": "enginepress.engines.onnxruntime"}


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


def can_build(config: Mapping[str, Any], recipe: Recipe, *, but: str) -> list[str]:
    """Names of the other builders that would take this checkpoint (for error messages)."""
    from enginepress.errors import EnginepressError

    found = []
    for name in sorted(_BUILDERS):
        if name != but:
            try:
                get_builder(name).check(config, recipe)
            except EnginepressError:
                continue
            found.append(name)
    return found
