"""What the release matrix, the table of GPUs and the rules of parallelism say about a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.errors import RecipeError
from enginepress.recipe import Recipe


@dataclass(frozen=True)
class Target:
    """Where an engine is built and served.

    Attributes:
        tag: Triton's release, "26.07".
        image: reference of the container in use: the recipe's own, or NVIDIA's.
        tensorrt_llm: version.
        tensorrt: version.
        template: folder in `model_repo_templates/`.
        gpu: product name, as our table of GPUs has it.
        sm: compute capability without the dot.
    """

    tag: str
    image: str
    tensorrt_llm: str
    tensorrt: str
    template: str
    gpu: str
    sm: str

    @property
    def image_digest(self) -> str | None:
        return self.image.partition("@")[2] or None


def target_of(recipe: Recipe) -> Target:
    """The container that the recipe asks for, or the newest that can, and its GPU.

    Raises:
        RecipeError: if no container can do it, or the recipe names no GPU.
    """
    if recipe.engine.gpu is None:
        raise RecipeError(
            "an engine runs only on the kind of GPU that it is built for, and the recipe names none",
            where="engine.gpu",
            fix="name it, e.g. engine.gpu: {name: H100-SXM5-80GB}",
        )
    from enginepress.engines.gpus import find
    from enginepress.engines.versions import choose

    row = choose(recipe)
    gpu = find(recipe.engine.gpu.name)
    missing = [name for name in ("tensorrt_llm", "tensorrt", "template") if not getattr(row, name)]
    if missing:
        raise RecipeError(
            f"nothing is known of {missing[0]} in Triton {row.tag}", where="engine.container", fix="take another release"
        )
    return Target(
        tag=row.tag,
        image=recipe.engine.image or row.image,
        tensorrt_llm=row.tensorrt_llm or "",
        tensorrt=row.tensorrt or "",
        template=row.template or "",
        gpu=gpu.name,
        sm=gpu.sm,
    )


def known_gpu(name: str) -> str:
    """Our name of a GPU that nvidia-smi calls so, or nvidia-smi's if our table lacks it."""
    from enginepress.engines.gpus import find

    try:
        return str(find(name).name)
    except RecipeError:
        return name


def check_parallelism(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Raises RecipeError for a parallelism that does not divide the model."""
    from enginepress.engines.architecture import read_shape
    from enginepress.engines.fit.parallelism import check_parallelism as check

    check(read_shape(config), recipe)
