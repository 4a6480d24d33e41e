from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from enginepress.process import identity
from enginepress.scratch import scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_scratch_folder_is_gone_after_the_work(temporary: Path) -> None:
    with scratch_folder("try") as folder:
        (folder / "file").write_text("x")
        assert folder.parent == temporary
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("keep", [False, True])
def test_after_an_error_it_stays_if_that_was_wanted(temporary: Path, keep: bool) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder("try", keep_on_error=keep):
        raise KeyboardInterrupt
    assert len(list(temporary.iterdir())) == keep


def test_what_a_killed_command_left_is_removed_by_the_next_one_and_nothing_else(temporary: Path) -> None:
    dead = temporary / "enginepress-try-999999999-12345-abc"
    alive = temporary / f"enginepress-try-{identity().replace(':', '-')}-abc"
    other = temporary / "enginepress-trying"
    for folder in (dead, alive, other):
        folder.mkdir()
    with scratch_folder("try"):
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()
