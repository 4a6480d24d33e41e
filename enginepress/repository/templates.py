"""What is particular to each builder's model repository: its models, what lies in them, and which fields hold paths.

A template is a folder of `enginepress.model_repo_templates`: a config.pbtxt per Triton model, and the files that go into
the model's version folder as they are (model.py and the like).

Paths inside a repository are written with a mark, `./`, in front of the path from the repository's top:

    unplaced    ./tiny-engine/0/engine               as `assemble` writes it
    a release   ./tiny-engine/7/engine               numbered; still without a root
    placed      /srv/models/./tiny-engine/7/engine   for readers who see the repository at /srv/models

`/./` changes nothing for whoever opens the path, and it lets `place` find the root again and take it away.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import RepositoryError
from enginepress.files import FileEntry, content_digest, hash_file, walk_files
from enginepress.repository.values import ConfigValues

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

MARK = "./"

# ------------------------------------------------------------------------------------------------------------------
# Fields that hold paths into the repository. `place` rewrites those whose value carries the mark, and no others.
# ------------------------------------------------------------------------------------------------------------------

PATH_PARAMETERS = (
    "gpt_model_path",  # tensorrtllm: the engine
    "encoder_model_path",
    "tokenizer_dir",  # tensorrtllm's pre- and postprocessing
    "multimodal_model_path",
    "visual_model_path",
    "hf_model_path",
    "xgrammar_tokenizer_info_path",
)
"""Keys of config.pbtxt's `parameters`."""

PATH_FILES = {
    "model.json": ("model", "tokenizer"),  # vllm
    "model.yaml": ("model", "tokenizer"),  # llmapi
}
"""Files of a version folder whose top-level keys hold paths."""


# ------------------------------------------------------------------------------------------------------------------
# Models of a repository
# ------------------------------------------------------------------------------------------------------------------

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
    """

    source: str
    values: ConfigValues
    engine: str | None = None
    tokenizer: str | None = None
    tokenizer_required: tuple[str, ...] = field(default=("tokenizer.json",))


def plan_models(recipe: Recipe) -> tuple[ModelPlan, ...]:
    """The Triton models that serve what this recipe builds.

    Raises:
        RepositoryError: for a builder that has no template.
    """
    planner = _PLANNERS.get(recipe.engine.builder)
    if planner is None:
        raise RepositoryError(
            f"builder '{recipe.engine.builder}' has no model repository template in this version",
            where="engine.builder",
            fix="available: " + ", ".join(sorted(_PLANNERS)),
        )
    return planner(recipe)


def _onnxruntime(recipe: Recipe) -> tuple[ModelPlan, ...]:
    limits, serving = recipe.engine.limits, recipe.serving
    parameters = {
        "max_concurrent_requests": str(serving.max_concurrent_requests),
        "max_tokens_default": str(serving.max_tokens_default),
        "slow_path_requests": str(serving.slow_path_requests),
        "max_batch_size": str(limits.max_batch_size),
        "threads": str(serving.threads),
        "max_sequence_length": "" if limits.max_sequence_length is None else str(limits.max_sequence_length),
    }
    values = ConfigValues(name=recipe.name, parameters=parameters)
    return (ModelPlan(source=".", values=values, engine="engine", tokenizer="tokenizer"),)


_PLANNERS: dict[str, Callable[[Recipe], tuple[ModelPlan, ...]]] = {"onnxruntime": _onnxruntime}


# ------------------------------------------------------------------------------------------------------------------
# Template folders
# ------------------------------------------------------------------------------------------------------------------


@functools.cache
def template_folder(template: str) -> Path:
    """The installed folder of a template.

    Raises:
        RepositoryError: if there is none of this name.
    """
    package = importlib.util.find_spec("enginepress.model_repo_templates")
    for place in (package.submodule_search_locations or []) if package is not None else []:
        folder = Path(place, template)
        if template.isidentifier() and folder.is_dir():
            return folder
    raise RepositoryError(f"there is no model repository template '{template}'", fix="install enginepress again")


def template_files(folder: Path) -> Iterator[str]:
    """Relative paths of a template's files, sorted, without what makes it a Python package."""
    for path in walk_files(folder):
        if path != "__init__.py" and "__pycache__" not in path.split("/") and not path.endswith(".pyc"):
            yield path


def template_digest(template: str) -> str:
    """sha256 (hex) over a template's files: part of the build key."""
    folder = template_folder(template)
    entries = (FileEntry(p, (folder / p).stat().st_size, hash_file(folder / p)) for p in template_files(folder))
    return content_digest(entries)
