"""An engine, a tokenizer and a template become an unplaced model repository.

    <name>/config.pbtxt          the template's, with the recipe's values set
    <name>/0/model.py …          the template's other files, as they are
    <name>/0/engine/…            what the builder wrote
    <name>/0/tokenizer/…         what of the checkpoint the served model needs

Which models there are, and where engine and tokenizer go, is the builder's plan (`enginepress.repository.plans`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.engines import get_builder
from enginepress.errors import RepositoryError
from enginepress.files import check_relative, explain_os_error, walk_files
from enginepress.repository import UNPLACED_VERSION
from enginepress.repository.links import link_file
from enginepress.repository.plans import TOKENIZER_FILES, ModelPlan, plan_models
from enginepress.repository.templates import template_digest, template_files, template_folder

if TYPE_CHECKING:
    from enginepress.recipe import Recipe

__all__ = ["assemble", "template_digest"]

CONFIG = "config.pbtxt"


def assemble(*, engine: Path, checkpoint: Path, recipe: Recipe, output: Path, template: Path | None = None) -> None:
    """Writes the unplaced repository into the empty folder `output`. Equal inputs give equal bytes.

    Engine and tokenizer files are hard-linked where that is possible, so that weights exist once on disk.

    Args:
        engine: the folder that the builder wrote.
        checkpoint: the folder that has the tokenizer.
        template: the template's folder, instead of the one that the builder names for this recipe.

    Raises:
        RepositoryError: for an empty engine, a checkpoint without tokenizer, or a template that is no valid config.
    """
    try:
        plans = plan_models(recipe)
        source = template_folder(get_builder(recipe.engine.builder).template(recipe)) if template is None else template
        names = {plan.values.name for plan in plans}
        for plan in plans:
            _assemble_model(plan, source, engine, checkpoint, output, names)
    except OSError as error:
        raise explain_os_error(error, "assembling the model repository", RepositoryError) from None


def _assemble_model(plan: ModelPlan, template: Path, engine: Path, checkpoint: Path, output: Path, names: set[str]) -> None:
    # Here and not above: protobuf takes 20 ms to import, and resolve needs only this module's template digest.
    from enginepress.repository.config import fill, parse_config, print_config
    from enginepress.repository.place import renumber

    source = template if plan.source == "." else template / plan.source
    model = output / plan.values.name
    version = model / UNPLACED_VERSION
    version.mkdir(parents=True)
    config_file = source / CONFIG
    if not config_file.is_file():
        raise RepositoryError("the template has no config.pbtxt", where=str(source), fix="install enginepress again")
    config = fill(parse_config(config_file.read_bytes(), str(config_file)), plan.values)
    renumber(config, names, UNPLACED_VERSION)
    (model / CONFIG).write_text(print_config(config), encoding="utf-8")
    for relative in template_files(source):
        if relative != CONFIG:
            target = version / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target)
    for shared in plan.shared:
        folder, _, name = shared.partition("/")
        shutil.copyfile(template_folder(folder) / name, version / Path(name).name)
    for name, text in plan.texts.items():
        (version / name).write_text(text, encoding="utf-8")
    if plan.engine is not None:
        _link_engine(engine, version / plan.engine)
    if plan.tokenizer is not None:
        _link_tokenizer(checkpoint, version / plan.tokenizer, plan.tokenizer_required)
    if not any(version.iterdir()):
        (version / ".keep").touch()  # an ensemble's version: Triton wants the folder, and stores keep only files


def _link_engine(engine: Path, target: Path) -> None:
    names = list(walk_files(engine)) if engine.is_dir() else []
    if not names:
        raise RepositoryError("the engine folder has no files", where=str(engine), fix="build the engine again: run --force")
    for name in names:
        link_file(engine / check_relative(name), target / name)


def _link_tokenizer(checkpoint: Path, target: Path, required: tuple[str, ...]) -> None:
    for name in TOKENIZER_FILES:
        if os.path.isfile(checkpoint / name):
            link_file(checkpoint / name, target / name)
        elif name in required:
            raise RepositoryError(
                f"the checkpoint has no {name}",
                where=str(checkpoint),
                fix="take a checkpoint that comes with a fast tokenizer (tokenizer.json)",
            )
