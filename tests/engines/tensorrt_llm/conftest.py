from __future__ import annotations

from collections.abc import Callable

import pytest

from enginepress.engines.tensorrt_llm import release
from enginepress.engines.tensorrt_llm.release import Target
from enginepress.errors import RecipeError
from tests.engines.stand_ins.image import Image, make_image, target

Enter = Callable[..., Target]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Enter:
    """`on("1.2.1", sm="90")`: the release matrix, the GPUs and the rules of parallelism say this, and nothing more."""

    def enter(version: str = "1.2.1", **more: str) -> Target:
        found = target(version, **more)

        def target_of(recipe: object) -> Target:
            if recipe.engine.gpu is None:  # type: ignore[attr-defined]
                raise RecipeError("the recipe names no GPU", where="engine.gpu")
            return found

        monkeypatch.setattr(release, "target_of", target_of)
        monkeypatch.setattr(release, "known_gpu", lambda name: {"NVIDIA H100 80GB HBM3": "H100-SXM5-80GB"}.get(name, name))
        monkeypatch.setattr(release, "check_parallelism", lambda config, recipe: None)
        return found

    enter()
    return enter


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image-1.2.1") / "image")


@pytest.fixture
def inside(image: Image, on: Enter, monkeypatch: pytest.MonkeyPatch) -> Image:
    image.enter(monkeypatch)
    return image
