"""The wheel: it holds every file that the product needs, and setuptools has nothing to say about how that came about."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("enginepress", "components", "pipelines", "model_repo_templates")


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_setuptools_warns_of_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert "would be ignored" not in said
    assert "Deprecat" not in said
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {p.relative_to(source) for folder in FOLDERS for p in (source / folder).rglob("*") if p.is_file()}
    assert held == {str(p if p.parts[0] == "enginepress" else Path("enginepress", p)) for p in there}
