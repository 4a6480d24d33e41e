"""The house rules that a reader relies on: who imports whom, what is packaged, what the command line costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["library", "steps", "components", "pipelines", "run", "cli"]
HEAVY = {
    "pydantic",
    "kfp",
    "mlflow",
    "awscrt",
    "boto3",
    "cryptography",
    "model_signing",
    "huggingface_hub",
    "torch",
    "transformers",
    "tritonclient",
    "numpy",
    "onnxruntime_genai",
}


TOOL_ONLY = {"enginepress.engines.modelopt.tensor_files", "enginepress.engines.modelopt.verify"}
"""Modules that only a process of its own imports, which has torch already; `driver` starts it."""


def _sources() -> list[Path]:
    folders = ["enginepress", "components", "pipelines"]
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))


def _layer(module: str) -> str:
    parts = module.split(".")
    if module == "enginepress":
        return "cli"  # its `__getattr__` is the front door of notebooks; a test keeps that light
    name = parts[1] if len(parts) > 1 else ""
    return {"notebook": "cli", "__main__": "cli"}.get(name, name) if name in (*LAYERS, "notebook", "__main__") else "library"


def _module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "enginepress":
        parts = ["enginepress", *parts]
    return ".".join(p for p in parts if p != "__init__")


def _imports(path: Path, *, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_left_of_it(path: Path) -> None:
    mine = LAYERS.index(_layer(_module(path)))
    for name in _imports(path):
        if name.startswith("enginepress."):
            assert LAYERS.index(_layer(name)) <= mine, f"{path}: {name} stands right of {LAYERS[mine]}"


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_components_pipelines_and_run_import_kfp(path: Path) -> None:
    if _layer(_module(path)) not in ("components", "pipelines", "run"):
        assert not any(name.split(".")[0] == "kfp" for name in _imports(path))


@pytest.mark.parametrize("path", sorted((ROOT / "enginepress" / "stores").glob("*.py")), ids=lambda p: p.name)
def test_stores_know_nothing_of_triton(path: Path) -> None:
    for name in _imports(path):
        assert not name.startswith(("tritonclient", "enginepress.serving", "enginepress.engines"))


@pytest.mark.parametrize(
    "path",
    sorted(p for p in _sources() if _layer(_module(p)) in ("library", "steps", "cli")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    if _layer(_module(path)) in ("components", "pipelines") or _module(path) in TOOL_ONLY:
        return
    recipes = ("recipe.py", "recipe_fields.py", "recipe_file.py", "recipe_messages.py", "stored_recipe.py")
    allowed = {"pydantic"} if path.name in recipes else set()
    assert not {name.split(".")[0] for name in _imports(path, top_only=True)} & (HEAVY - allowed)


def test_what_needs_torch_at_once_is_imported_by_its_own_process_only() -> None:
    importers = {_module(p) for p in _sources() if _imports(p) & TOOL_ONLY}
    assert importers <= TOOL_ONLY | {"enginepress.engines.modelopt.driver"}


def test_every_folder_with_code_is_packaged() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = [ROOT / f for f in ("enginepress", "components", "pipelines", "model_repo_templates")]
    found = {_module(p) for f in folders for p in f.rglob("__init__.py")}
    assert packages == found


def test_no_folder_has_a_name_that_pytest_skips() -> None:
    assert not [p for p in ROOT.rglob("*") if p.is_dir() and p.name in ("build", "dist") and "venv" not in str(p)]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv=['enginepress', *sys.argv[1:]]\n"
        "from enginepress.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"heavy = sorted(set(sys.modules) & {HEAVY!r})\n"
        "print('heavy:', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("heavy: []")


def test_no_file_names_a_place_of_its_authors() -> None:
    """Sources speak of the project, never of the machine on which they were written."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in files:
        path = ROOT / name
        if name and path.is_file() and path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ""):
            text = path.read_text(errors="ignore")
            assert "/root/" not in text.replace('"/root/"', ""), name
