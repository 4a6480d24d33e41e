"""What is looked at before anything is sent to a cluster, by whoever submits: the image, the recipe's paths, the plan.

A recipe's `file://` addresses mean paths in a cluster's pods, where only mounted volumes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from enginepress.compile_options import DEFAULT_IMAGE, CompileOptions
from enginepress.errors import SourceError, UsageError
from enginepress.recipe import Recipe

FILE = "file://"


def check_image(options: CompileOptions, parameters: Mapping[str, Any]) -> None:
    """Raises UsageError if no image was named: the default one is a name that nobody publishes."""
    if options.image == DEFAULT_IMAGE and not options.image_prefix and not parameters.get("image"):
        raise UsageError(
            "which image do the steps run in?",
            where="image",
            fix="name the one that scripts/build_image.py has built: --image NAME@sha256:…, or set ENGINEPRESS_IMAGE",
        )


def check_reach(recipe: Recipe, options: CompileOptions) -> None:
    """Raises UsageError if the recipe names a path that no volume of the pipeline has."""
    volumes = [options.workspace, *([options.store] if options.store else []), *(m.path for m in options.mounts)]
    addresses = [("source.uri", recipe.source.uri), *((f"stores[{n}].url", s.url) for n, s in enumerate(recipe.stores))]
    for field, address in addresses:
        if not address.startswith(FILE):
            continue
        path = PurePosixPath(address.removeprefix(FILE))
        if not any(path.is_relative_to(volume) for volume in volumes):
            raise UsageError(
                f"{path} is a path of this machine; steps on the cluster see only {', '.join(volumes)}",
                where=field,
                fix=f"write a path on one of these volumes, mount another one with --mount PVC:{path.parent}, or use s3:// or hf://",
            )


def is_here(recipe: Recipe) -> bool:
    """Whether the source can be looked at from this machine: a path on a cluster's volume cannot."""
    uri = recipe.source.uri
    return not uri.startswith(FILE) or Path(uri.removeprefix(FILE)).exists()


def check_plan(recipe: Recipe, *, tell: Callable[[str], None], without: str) -> None:
    """Plans, if the source can be looked at from here.

    Args:
        tell: gets a line if it cannot.
        without: how to submit without a plan, for whom only the cluster reaches the source.

    Raises:
        EnginepressError: what will not fit, or that the source cannot be asked.
    """
    from enginepress.steps.plan import plan_recipe

    if not is_here(recipe):
        tell(f"{recipe.source.uri} lies on the cluster: the run's first step plans")
        return
    try:
        refusal = plan_recipe(recipe).refusal
    except SourceError as error:
        error.fix = (error.fix + "; " if error.fix else "") + f"or, if only the cluster reaches the source, {without}"
        raise
    if refusal is not None:
        raise refusal
