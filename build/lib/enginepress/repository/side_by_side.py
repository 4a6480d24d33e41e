"""Names under which two releases of one repository can be loaded by one server at the same time.

Clients call some of a repository's models; others stand behind those: steps of an ensemble, models that a BLS model calls. Of a
model's versions all share one config, and so one path to an engine, and an ensemble's old version would run with the new
one's steps. So where a release is placed for live servers, the models behind carry its number in their names:

    tiny                 tiny            version 7; clients notice nothing
    tiny-engine          tiny-engine.r7  version 7, at <root>/./tiny-engine.r7/7/engine
    tiny-preprocessing   tiny-preprocessing.r7

Release 8 then is loaded beside it, `tiny` moves to it, and the models of release 7 are unloaded when nobody uses them any more
(`enginepress.serving.rollout`). Pure; `plain_names` undoes `release_names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginepress.repository.proto import ModelConfig

CALLED_BY_NAME = ("tensorrt_llm_model_name", "preprocessing_model_name", "postprocessing_model_name")
"""Parameters of a BLS model that hold names of other models."""

_MARKED = re.compile(r"(.+)\.r([1-9][0-9]*)")


def behind(configs: Mapping[str, ModelConfig]) -> set[str]:
    """The models, by name, that others of the repository call."""
    called: set[str] = set()
    for name, config in configs.items():
        called |= {step.model_name for step in config.ensemble_scheduling.step} - {name}
        called |= {config.parameters[key].string_value for key in CALLED_BY_NAME if key in config.parameters} - {name}
    return called & set(configs)


def release_names(configs: Mapping[str, ModelConfig], number: int) -> dict[str, str]:
    """The names that change: `tiny-engine` -> `tiny-engine.r7`."""
    return {name: f"{name}.r{number}" for name in behind(configs)}


def plain_names(configs: Mapping[str, ModelConfig], number: int) -> dict[str, str]:
    """The names that change back: `tiny-engine.r7` -> `tiny-engine`, in a repository whose version is 7."""
    found = {name: plain_name(name, number) for name in behind(configs)}
    return {name: plain for name, plain in found.items() if plain != name and plain not in configs}


def plain_name(name: str, number: int) -> str:
    """The model's name in the release: without the mark of this release, if it has that."""
    match = _MARKED.fullmatch(name)
    return match[1] if match and int(match[2]) == number else name


def marked_release(name: str) -> tuple[str, int] | None:
    """What a name with a mark says: `("tiny-engine", 7)`; None for a name without."""
    match = _MARKED.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def rename(config: ModelConfig, names: Mapping[str, str]) -> None:
    """Gives a config and what it calls the new names. Paths are not touched."""
    config.name = names.get(config.name, config.name)
    if config.HasField("ensemble_scheduling"):
        for step in config.ensemble_scheduling.step:
            step.model_name = names.get(step.model_name, step.model_name)
    for key in CALLED_BY_NAME:
        if key in config.parameters:
            value = config.parameters[key].string_value
            config.parameters[key].string_value = names.get(value, value)
