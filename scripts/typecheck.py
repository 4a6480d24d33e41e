"""Runs mypy over the package as it installs.

Three of its folders stand at the top of the repository and become subpackages only at installation, which mypy cannot see.
So the package is laid out once more from links, and mypy is shown that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAPPED = ("components", "pipelines", "model_repo_templates")


def lay_out(target: Path) -> None:
    package = target / "enginepress"
    package.mkdir()
    for entry in (ROOT / "enginepress").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in MAPPED:
        (package / name).symlink_to(ROOT / name)


def main() -> int:
    target = Path(tempfile.mkdtemp(prefix="enginepress-types-"))
    try:
        lay_out(target)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "enginepress"]
        return subprocess.run([*command, "--cache-dir", str(ROOT / ".mypy_cache")], cwd=target, check=False).returncode
    finally:
        shutil.rmtree(target)


if __name__ == "__main__":
    sys.exit(main())
