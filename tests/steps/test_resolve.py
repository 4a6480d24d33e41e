"""resolve finds what is wrong with a recipe's serving before anything is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import RecipeError, SourceError, StoreError
from enginepress.recipe import Recipe
from enginepress.sources.open import open_source
from enginepress.steps import resolve
from enginepress.steps.job import Job
from enginepress.stores.filesystem import FileStore
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.repository.plans.test_tensorrt_llm import recipe
from tests.stores.parts import MODEL, key, make_source, publish

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


def test_a_broken_config_is_told_before_a_reference_that_fits_other_bytes(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    (checkpoint / "config.json").write_text("{")
    references = {"reference": json.loads((CHECKPOINT.parents[1] / "references" / "tiny-llama.json").read_text())}
    data = {"name": MODEL, "source": f"file://{checkpoint}", "stores": [f"file://{tmp_path}/store"], "checks": references}
    job = Job(Recipe.model_validate(data), Workspace(tmp_path / "workspace"), "run")
    with pytest.raises(SourceError, match=r"config\.json"):
        resolve.resolve(job)


# Room in the stores ---------------------------------------------------------------------------------------------------


def two_stores(folder: Path) -> Recipe:
    stores = [f"file://{folder}/first", f"file://{folder}/not/yet/there"]
    return Recipe.model_validate({"name": MODEL, "source": f"file://{CHECKPOINT}", "stores": stores})


def test_the_size_of_a_release_is_estimated_when_the_model_is_checked(tmp_path: Path) -> None:
    wanted = two_stores(tmp_path)
    revision = open_source(wanted.source, cache=tmp_path).resolve()
    weights = sum(f.size for f in revision.files if f.path.endswith(".safetensors"))
    assert weights / 2 < resolve.check_model(wanted, tmp_path, revision) < 4 * weights


@pytest.mark.parametrize("full", ["first", "not/yet/there"])
def test_a_store_without_room_for_the_release_is_told_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    wanted = two_stores(tmp_path)
    free = open_store(wanted.stores[0]).free_bytes()
    assert free is not None
    resolve.check_stores(wanted, size=free // 2, revision=key("new"))
    with pytest.raises(StoreError, match=r"are free there, and the release will take about [\d,.]+ .B") as error:
        resolve.check_stores(wanted, size=free * 2, revision=key("new"))
    assert error.value.where == f"file://{tmp_path}/first"
    assert f"`enginepress prune file://{tmp_path}/first`" in (error.value.fix or "")
    monkeypatch.setattr(FileStore, "free_bytes", lambda store: 80 if str(store.root).endswith(full) else 100)
    resolve.check_stores(wanted, size=85, revision=key("new"))
    with pytest.raises(StoreError) as error:
        resolve.check_stores(wanted, size=100, revision=key("new"))
    assert error.value.where == f"file://{tmp_path}/{full}"


def test_a_release_whose_files_may_be_there_already_is_not_refused_for_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = two_stores(tmp_path)
    for settings in wanted.stores:
        store = open_store(settings)
        assert isinstance(store, FileStore)
        publish(store, make_source(tmp_path / store.root.name / "source"))
    monkeypatch.setattr(FileStore, "free_bytes", lambda store: 1)
    resolve.check_stores(wanted, size=100, revision=key("revision"))
    with pytest.raises(StoreError):
        resolve.check_stores(wanted, size=100, revision=key("another"))
