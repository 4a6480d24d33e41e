"""changed: what a run would have work for, and why; one small request a source; failures kept apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.recipe_file import load_recipe
from enginepress.steps.changed import Change, changed, for_watching
from enginepress.steps.lock import lock_recipe
from enginepress.steps.resolve import plan_of
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.sources.conftest import hub as hub
from tests.sources.hub_server import Fault, HubServer
from tests.sources.ngc_server import NgcServer
from tests.sources.tiny import checkpoint, write
from tests.steps.pretend import pretend_release


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def _write(folder: Path, name: str, uri: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    registry = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    recipe = {"name": name, "source": uri, "stores": [f"file://{folder}/store"], "registry": registry, **changes}
    path.write_text(yaml.safe_dump(recipe))
    return path


def _release(path: Path, workspace: Workspace) -> int:
    """What the recipe's source has now is released, as a run would leave it."""
    recipe = load_recipe(path, locked=False)
    plan, revision = plan_of(recipe, workspace.path("cache"), "r")
    return pretend_release(recipe, plan, revision, path.parent)


def _one(path: Path, workspace: Workspace) -> Change:
    (change,) = changed([path], workspace)
    return change


def test_a_recipe_is_new_then_current_then_moved(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    first = hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny@main", channels=["production"])
    new = _one(path, workspace)
    assert (new.state, new.revision, new.release) == ("new", first, 0)
    assert new.recipe is not None
    assert new.recipe.channels == ["candidate"], "what is built unattended is promoted to no other channel"
    _release(path, workspace)
    # That release is on production only, so the candidate is missing, and nothing else.
    assert _one(path, workspace).reasons == (f"promote release 1 to candidate in file://{tmp_path}/store",)
    second = hub.commit("org/tiny", checkpoint(seed=2))
    moved = _one(path, workspace)
    assert (moved.state, moved.revision, moved.release) == ("moved", second, 0)
    assert moved.reasons == (f"its source was {first[:12]} for release 1 and is {second[:12]} now",)


def test_nothing_to_do_is_one_small_request_and_the_etag_is_sent(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    _release(path, workspace)
    assert _one(path, workspace).state == "current"
    hub.requests.clear()
    before = hub.unchanged
    assert _one(path, workspace).state == "current"
    assert len(hub.requests) == 1
    assert hub.unchanged == before + 1


def test_a_commit_that_changes_no_file_of_a_build_is_no_change(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    _release(path, workspace)
    newest = hub.commit("org/tiny", {**checkpoint(), "README.md": b"other words"})
    change = _one(path, workspace)
    assert (change.state, change.revision, change.release) == ("current", newest, 1)


def test_what_else_changes_the_build_key_is_altered_and_named(
    hub: HubServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    _release(path, workspace)
    _write(tmp_path, "tiny", "hf://org/tiny", engine={"precision": "int4"})
    recipe_changed = _one(path, workspace)
    assert (recipe_changed.state, recipe_changed.reasons) == ("altered", ("engine.precision was the default and is int4 now",))

    _write(tmp_path, "tiny", "hf://org/tiny")
    with monkeypatch.context() as patch:
        patch.setattr("enginepress.steps.changed.template_digest", lambda template: "f" * 64)
        assert "template" in _one(path, workspace).reasons[0]
    with monkeypatch.context() as patch:
        patch.setattr(
            "enginepress.engines.onnxruntime.OnnxRuntimeBuilder.declared", lambda self, recipe: {"onnxruntime-genai": "9.9"}
        )
        altered = _one(path, workspace)
    assert altered.state == "altered"
    assert any(r.startswith("onnxruntime-genai was ") and r.endswith(" and is 9.9 now") for r in altered.reasons)
    assert _one(path, workspace).state == "current"


def test_a_new_container_is_a_change(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    engine = {"builder": "llmapi", "precision": "bfloat16", "gpu": {"name": "H100-SXM5-80GB"}, "container": "26.02"}
    served = {"checks": {"served": False}}
    path = _write(tmp_path, "tiny", "hf://org/tiny", engine=engine, **served)
    _release(path, workspace)
    assert _one(path, workspace).state == "current"
    _write(tmp_path, "tiny", "hf://org/tiny", engine={**engine, "container": "26.03"}, **served)
    change = _one(path, workspace)
    assert change.state == "altered"
    assert set(change.reasons) == {"engine.container was 26.02 and is 26.03 now", "tensorrt_llm was 1.1.0 and is 1.2.0 now"}


def test_other_checks_are_unfinished_work_and_no_new_build(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    _release(path, workspace)
    _write(tmp_path, "tiny", "hf://org/tiny", checks={"prompts": [{"text": "Hello"}]})
    change = _one(path, workspace)
    assert (change.state, change.release) == ("unfinished", 1)
    assert change.reasons == ("gate release 1 by these checks",)


def test_a_lock_does_not_hold_a_watched_recipe_back(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    first = hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    lock_recipe(path, workspace)
    _release(path, workspace)
    assert _one(path, workspace).state == "current"
    second = hub.commit("org/tiny", checkpoint(seed=2))
    change = _one(path, workspace)
    assert (change.state, change.revision) == ("moved", second)
    assert change.recipe is not None
    assert change.recipe.source.lock is None
    assert first[:12] in change.note
    _release(path, workspace)
    assert _one(path, workspace).state == "current"


def test_a_reference_of_other_bytes_is_told_before_anything_is_built(
    hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    example = Path(__file__).parents[2] / "examples" / "references" / "tiny-llama.json"
    shutil.copy(example, tmp_path / "reference.json")
    path = _write(tmp_path, "tiny", "hf://org/tiny", checks={"reference": "reference.json", "prompts": [{"text": "a"}]})
    change = _one(path, workspace)
    assert change.state == "failed"
    assert change.error is not None
    assert "another revision" in change.error["message"]
    assert "enginepress reference" in change.error["fix"]


def test_every_kind_of_source_is_asked(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    folder = write(tmp_path / "folder", checkpoint())
    local = _write(tmp_path / "r", "local", f"file://{folder}")
    with NgcServer() as ngc:
        for name, value in ngc.environment.items():
            monkeypatch.setenv(name, value)
        ngc.add_model("org/tiny", {"1": checkpoint()})
        latest, named = _write(tmp_path / "r", "latest", "ngc://org/tiny"), _write(tmp_path / "r", "named", "ngc://org/tiny:1")
        paths = [local, latest, named]
        for path in paths:
            _release(path, workspace)
        assert [c.state for c in changed(paths, workspace)] == ["current"] * 3
        ngc.add_model("org/tiny", {"1": checkpoint(), "2": checkpoint(seed=5)})
        (folder / "config.json").write_text('{"model_type": "llama", "seed": 7}')
        assert [c.state for c in changed(paths, workspace)] == ["moved", "moved", "current"]


def test_what_fails_is_told_and_touches_no_other(
    hub: HubServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    hub.add_repo("org/private", checkpoint(), token="hf_somebody")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    paths = [
        _write(tmp_path, "good", "hf://org/tiny"),
        _write(tmp_path, "gone", "hf://org/gone"),
        _write(tmp_path, "private", "hf://org/private"),
        broken,
        tmp_path / "nonexistent.yaml",
        _write(tmp_path, "token", "hf://org/tiny", source={"uri": "hf://org/tiny", "token": "${NOT_SET_AT_ALL}"}),
        _write(tmp_path, "good2", "hf://org/tiny"),
    ]
    found = changed(paths, workspace)
    assert [c.state for c in found] == ["new", "failed", "failed", "failed", "failed", "failed", "new"]
    for change in found:
        if change.state == "failed":
            assert change.recipe is None
            assert change.error is not None
            assert change.error["message"]
            assert change.error["fix"]
    assert [c.path for c in found] == [str(p) for p in paths]


def test_two_recipes_of_one_model_are_told_and_neither_is_built(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    one = _write(tmp_path, "tiny", "hf://org/tiny")
    two = tmp_path / "other.yaml"
    two.write_text(one.read_text() + "description: the other\n")
    found = changed([one, two, _write(tmp_path, "alone", "hf://org/tiny")], workspace)
    assert [c.state for c in found] == ["failed", "failed", "new"]
    assert found[0].error is not None
    assert "other.yaml" in found[0].error["message"]


def test_a_bug_that_one_recipe_meets_touches_no_other(
    hub: HubServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    paths = [_write(tmp_path, name, "hf://org/tiny") for name in ("a", "b")]
    import enginepress.steps.changed as module

    def plan_for(recipe: Any, *rest: Any) -> Any:
        if recipe.name == "a":
            raise KeyError("surprise")
        return before(recipe, *rest)

    before = module.plan_for
    monkeypatch.setattr(module, "plan_for", plan_for)
    first, second = changed(paths, workspace)
    assert first.error is not None
    assert (first.error["type"], second.state) == ("bug", "new")


def test_a_server_that_answers_nonsense_fails_one_recipe(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    hub.add_repo("org/odd", checkpoint())
    hub.faults.append(Fault("/api/models/org/odd/*", body=b"<html>", times=-1))
    paths = [_write(tmp_path, "odd", "hf://org/odd"), _write(tmp_path, "tiny", "hf://org/tiny")]
    assert [c.state for c in changed(paths, workspace)] == ["failed", "new"]


def test_a_watched_recipe_names_candidate_only() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "examples" / "recipes" / "laptop.yaml")
    assert recipe.channels == ["candidate", "production"]
    assert for_watching(recipe).channels == ["candidate"]


def test_a_damaged_newest_release_is_no_silence(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _write(tmp_path, "tiny", "hf://org/tiny")
    number = _release(path, workspace)
    store = open_store(load_recipe(path).stores[0])
    manifest = tmp_path / "store" / "tiny" / "releases" / str(number) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"model": "tiny"', '"model": "other"'))
    assert store.numbers("tiny") == [number]
    change = _one(path, workspace)
    assert change.state in ("failed", "new")
