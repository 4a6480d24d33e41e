"""What is particular to each builder's model repository: its template's files, and which fields hold paths.

A template is a folder of `enginepress.model_repo_templates`: a config.pbtxt per Triton model, and the files that go into
the model's version folder as they are (model.py and the like). What several templates need lies in `common`, and the Python
of all TensorRT-LLM generations in `tensorrt_llm`. Which models a recipe gets is in `enginepress.repository.plans`.

Paths inside a repository are written with a mark, `./`, in front of the path from the repository's top:

    unplaced    ./tiny-engine/0/engine               as `assemble` writes it
    a release   ./tiny-engine/7/engine               numbered; still without a root
    placed      /srv/models/./tiny-engine/7/engine   for readers who see the repository at /srv/models

`/./` changes nothing for whoever opens the path, and it lets `place` find the root again and take it away.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from enginepress.errors import RepositoryError
from enginepress.files import FileEntry, content_digest, hash_file, walk_files

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


@functools.cache
def template_modules() -> frozenset[str]:
    """Names of the Python modules that templates put beside a model.py."""
    root = template_folder("common").parent
    return frozenset(path.stem for path in root.rglob("*.py") if path.stem not in ("__init__", "model"))


def shared_folders(template: str) -> tuple[str, ...]:
    """The folders beside a template whose files its models may get as well."""
    return ("common", "tensorrt_llm") if template.startswith("tensorrt_llm") else ("common",)


def template_digest(template: str) -> str:
    """sha256 (hex) over a template's files and those that it shares: part of the build key."""
    entries = []
    for name in (template, *shared_folders(template)):
        folder = template_folder(name)
        for path in template_files(folder):
            entries.append(FileEntry(f"{name}/{path}", (folder / path).stat().st_size, hash_file(folder / path)))
    return content_digest(tuple(sorted(entries, key=lambda entry: entry.path)))
