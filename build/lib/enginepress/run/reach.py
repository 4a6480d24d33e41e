"""What a recipe's `file://` addresses mean on a cluster: paths in its pods, where only mounted volumes are."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from enginepress.compile_options import CompileOptions
from enginepress.errors import UsageError
from enginepress.recipe import Recipe

FILE = "file://"


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
