"""Paths that stay in their folder, digests of folders, and writes that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import UnsafePathError
from enginepress.files import (
    check_relative,
    commit_folder,
    contained_path,
    content_digest,
    hash_folder,
    remove_tree,
    write_atomic,
)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a//b", "", ".", "./a", "a\\b", "C:/x", "a\x00b", "a/"])
def test_paths_that_could_leave_their_folder_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        check_relative(path)


@given(st.text(max_size=40))
def test_an_accepted_path_lies_in_its_folder(path: str) -> None:
    try:
        check_relative(path)
    except UnsafePathError:
        return
    assert os.path.normpath(os.path.join("/folder", path)).startswith("/folder/")


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "real").write_text("x")
    (folder / "out").symlink_to("../secret")
    (folder / "in").symlink_to("real")
    assert contained_path(folder, "in") == folder / "in"
    with pytest.raises(UnsafePathError, match="secret"):
        contained_path(folder, "out")
    with pytest.raises(UnsafePathError):
        hash_folder(folder)


def test_the_digest_of_a_folder_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("same")
        (tmp_path / name / "empty").mkdir()
    os.utime(tmp_path / "a" / "sub" / "x", (1, 1))
    same = content_digest(hash_folder(tmp_path / "a"))
    assert same == content_digest(hash_folder(tmp_path / "b"))
    (tmp_path / "b" / "sub" / "x").write_text("sane")
    assert same != content_digest(hash_folder(tmp_path / "b"))


def test_an_atomic_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "x", 5)  # type: ignore[arg-type]
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_first_folder_to_be_committed_wins(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    assert commit_folder(tmp_path / "first", tmp_path / "out" / "x")
    assert not commit_folder(tmp_path / "second", tmp_path / "out" / "x")
    assert (tmp_path / "out" / "x" / "who").read_text() == "first"
    remove_tree(tmp_path / "out" / "x")
    remove_tree(tmp_path / "out" / "x")
    assert os.listdir(tmp_path / "out") == []
