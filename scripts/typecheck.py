"""Runs mypy over the package as it installs, and over each model repository template as it runs.

Three of the package's folders stand at the top of the repository and become subpackages only at installation, which mypy
cannot see: so the package is laid out once more from links, and mypy is shown that. A template's files run outside the
package, beside each other in a version folder, and import each other by their bare names: so each is laid out like that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "model_repo_templates"

TEMPLATE_MODELS = {
    "onnxruntime": ("onnxruntime", "common"),
    "llmapi": ("llmapi", "common"),
    "preprocessing": ("tensorrt_llm/preprocessing", "common"),
    "postprocessing": ("tensorrt_llm/postprocessing", "tensorrt_llm", "common"),
    "bls": ("tensorrt_llm/bls", "tensorrt_llm", "common"),
}
"""Python models of the templates, and the folders whose files may stand beside each other in one."""


def lay_out_package(target: Path) -> list[str]:
    package = target / "enginepress"
    package.mkdir()
    for entry in (ROOT / "enginepress").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in ("components", "pipelines"):
        (package / name).symlink_to(ROOT / name)
    (package / TEMPLATES.name).mkdir()
    (package / TEMPLATES.name / "__init__.py").symlink_to(TEMPLATES / "__init__.py")
    return ["-p", "enginepress"]


def lay_out_template(folders: tuple[str, ...], target: Path) -> list[str]:
    files = [p for folder in folders for p in sorted((TEMPLATES / folder).glob("*.py")) if p.name != "__init__.py"]
    for path in files:
        (target / path.name).symlink_to(path)
    return [p.name for p in files]


def check(arguments: list[str], folder: Path, cache: str) -> int:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / cache), *arguments]
    return subprocess.run(command, cwd=folder, check=False).returncode


def main() -> int:
    status = 0
    scratch = Path(tempfile.mkdtemp(prefix="enginepress-types-"))
    try:
        (scratch / "package").mkdir()
        status |= check(lay_out_package(scratch / "package"), scratch / "package", "package")
        for name, folders in TEMPLATE_MODELS.items():
            folder = scratch / name
            folder.mkdir()
            status |= check(lay_out_template(folders, folder), folder, name)
        return status
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
