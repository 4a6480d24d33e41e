"""Slips of the hand on the command line: what is meant is named, and nothing is made anywhere."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from enginepress.cli.options import default_workspace
from enginepress.cli.summary import _reachable
from enginepress.errors import StoreError, UsageError
from enginepress.recipe import Recipe
from enginepress.steps.doctor import examine
from enginepress.steps.target import named_target
from enginepress.workspace import Workspace
from tests.run.recipes import enginepress


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    done = enginepress("rollbak", "recipe.yaml")
    assert done.returncode == 2
    assert "No such command 'rollbak'. Did you mean 'rollback'?" in done.stderr
    assert "Did you mean" not in enginepress("xyzzy").stderr


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_workspace_is_not_the_folder_that_one_stands_in(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = enginepress("doctor", "-w", given)
    assert done.returncode == 2
    assert "names no folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_home_is_not_the_root_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "ENGINEPRESS_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert default_workspace() == f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/enginepress"
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(UsageError, match="HOME: is not set") as caught:
        default_workspace()
    assert "-w" in (caught.value.fix or "")
    monkeypatch.setenv("ENGINEPRESS_WORKSPACE", "/srv/workspace")
    assert default_workspace() == "/srv/workspace"


@pytest.mark.parametrize("url", ["s3://", "ftp://host/models"])
def test_a_place_that_is_no_store_is_named_as_it_was_typed(url: str) -> None:
    with pytest.raises(UsageError, match=f"'{url}' is no place for a store"):
        named_target(url)


def test_a_folder_that_is_not_there_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A store in the folder where one stands is none that was named.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere-at-all" / "releases").mkdir(parents=True)
    with pytest.raises(StoreError, match="is no store, and no model in one") as caught:
        named_target(str(tmp_path / "nowhere"))
    assert "STORE" in str(caught.value.fix)
    with pytest.raises(StoreError, match="is no store"):
        named_target("/nowhere-at-all")


def test_validate_names_what_it_was_given_where_all_of_it_is_meant(tmp_path: Path) -> None:
    done = enginepress("validate", tmp_path)
    assert done.returncode == 1
    assert f"error: {tmp_path}: has no models" in done.stdout


def test_doctor_tells_once_that_a_store_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    place = f"file://{tmp_path}/file"
    recipe = Recipe.model_validate({"name": "tiny", "source": "file:///x", "stores": [place], "channels": ["a"]})
    found = [f for f in examine(recipe, Workspace(tmp_path / "workspace"), repair=False) if place in f.what]
    assert [f.status for f in found if f.message.endswith("/tiny: reading the store failed: Not a directory")] == ["error"]


def test_who_has_no_enginepress_on_the_path_is_told_how_to_get_it_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("python", "activate", "enginepress"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert list(_reachable()) == [f". {tmp_path.name}/activate"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _reachable() == {}
    (tmp_path / "activate").unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    assert _reachable() == {}
