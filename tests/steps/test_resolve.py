"""resolve finds what is wrong with a recipe's serving before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import RecipeError
from enginepress.sources.open import open_source
from enginepress.steps import resolve
from tests.repository.plans.test_tensorrt_llm import recipe

CHECKPOINT = Path(__file__).resolve().parents[2] / "examples" / "checkpoints" / "tiny-llama"


class Willing:
    """A builder that takes everything."""

    def check(self, config: Any, wanted: Any) -> None:
        assert config["architectures"]


def test_a_wrong_serving_parameter_is_refused_when_the_model_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "get_builder", lambda name: Willing())
    good = recipe().model_copy(update={"source": recipe().source.model_copy(update={"uri": f"file://{CHECKPOINT}"})})
    revision = open_source(good.source, cache=tmp_path).resolve()
    resolve.check_model(good, tmp_path, revision)
    serving = good.serving.model_copy(update={"parameters": {"kv_cache_free_gpu_mem_fraction": 2}})
    with pytest.raises(RecipeError, match="must be from 0 to 1"):
        resolve.check_model(good.model_copy(update={"serving": serving}), tmp_path, revision)
