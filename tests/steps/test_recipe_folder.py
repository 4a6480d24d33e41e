"""Recipes are found in folders: nested ones, mounted ConfigMaps, Git-sync's links; none is left out in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import RecipeError
from enginepress.recipe_file import load_recipe
from enginepress.steps.recipe_folder import find_recipes, recipes_in


def _recipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("name: tiny\nsource: hf://org/tiny\nstores: [file:///srv/models]\n")
    return path


def test_folders_are_searched_for_recipes_and_other_files_passed_over(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path / "a.yaml")
    (tmp_path / "values.yaml").write_text("replicas: 1\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    assert find_recipes([tmp_path]) == [recipe]
    named = tmp_path / "values.yaml"
    assert find_recipes([named]) == [named], "what is named is read, and complained about if it is no recipe"


@pytest.mark.parametrize("key", ["name", "source", "stores"])
def test_a_recipe_with_a_mistyped_key_is_not_left_out_in_silence(key: str, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path / "a.yaml")
    recipe.write_text(re.sub(rf"^{key}", f"{key}x", recipe.read_text(), flags=re.MULTILINE))
    assert find_recipes([tmp_path]) == [recipe]


def test_a_recipe_in_another_encoding_is_not_left_out_in_silence(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path / "a.yaml")
    recipe.write_bytes("# für uns\n".encode("latin-1") + recipe.read_bytes())
    assert find_recipes([tmp_path]) == [recipe]


def test_recipes_are_found_as_a_configmap_or_git_sync_shows_them(tmp_path: Path) -> None:
    """A ConfigMap: links into a hidden folder that changes as a whole. Each file is found once."""
    data = tmp_path / "..2026_11_27" / "x"
    data.mkdir(parents=True)
    for name in ("one.yaml", "two.yml"):
        (data / name).write_text("name: a\nsource: b\nstores: []\n")
        (tmp_path / name).symlink_to(data / name)
    (tmp_path / "values.yaml").write_text("other: thing\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "three.yaml").write_text("name: a\nsource: b\nstores: []\n")
    assert [p.name for p in recipes_in(tmp_path)] == ["one.yaml", "two.yml"]
    # Git-sync: a link to the working copy, which lies in a hidden folder, and may link back.
    copy = tmp_path / ".worktrees" / "abc"
    copy.mkdir(parents=True)
    (copy / "four.yaml").write_text("name: a\nsource: b\nstores: []\n")
    (copy / "loop").symlink_to(tmp_path)
    (tmp_path / "current").symlink_to(copy)
    assert [p.name for p in recipes_in(tmp_path)] == ["four.yaml", "one.yaml", "two.yml"]


def test_what_is_named_twice_is_found_once_and_folders_in_folders_are_searched(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path / "team" / "llama" / "a.yaml")
    other = _recipe(tmp_path / "b.yaml")
    assert find_recipes([tmp_path]) == [other, recipe]
    assert find_recipes([recipe, tmp_path, tmp_path / "team"]) == [recipe, other]
    assert find_recipes([tmp_path / "gone.yaml"]) == [tmp_path / "gone.yaml"], "what is not there is complained about"


def test_a_folder_that_cannot_be_read_is_complained_about_and_one_that_is_gone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(tmp_path / "a.yaml")
    closed, gone = tmp_path / "closed", tmp_path / "gone"
    for folder in (closed, gone):
        folder.mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Iterator[os.DirEntry[str]]:
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        if os.fspath(path) == str(gone):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_recipes([tmp_path]) == [recipe, closed]
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(closed)
