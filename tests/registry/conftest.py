from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.recipe import Registry
from enginepress.registry import MlflowRegistry, Registration
from tests.stores.parts import MODEL, key, manifest

Register = Callable[..., Registration]
A = key("a")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/workspace/mlflow.db"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take a second to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowRegistry(Registry(), default_uri=f"sqlite:///{path}").describe(MODEL)
    return path


@pytest.fixture
def registry(uri: str, tmp_path: Path, empty_database: Path) -> MlflowRegistry:
    (tmp_path / "workspace").mkdir()
    shutil.copy(empty_database, tmp_path / "workspace/mlflow.db")
    return MlflowRegistry(Registry(), default_uri=uri)


@pytest.fixture
def report(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"report.{kind}" for kind in ("json", "md", "html")]
    for path in files:
        path.write_text(f"report as {path.suffix}")
    return files


@pytest.fixture
def register(registry: MlflowRegistry, report: list[Path]) -> Register:
    """Registers a release, with what a run would say about it."""
    return lambda release, build_key=A, **more: register_with(registry, release, build_key, report, **more)


def register_with(registry: MlflowRegistry, release: int, build_key: str, report: list[Path], **more: Any) -> Registration:
    wanted: dict[str, Any] = {
        "manifest": manifest_of(release, build_key),
        "stores": ["file:///srv/models"],
        "params": {"engine.precision": "int4", "serving.threads": 2, "weird*key": ["a", 1]},
        "metrics": {"tokens_per_second": 123.5},
        "step_seconds": {"build": 7.25, "verify": 3.0},
        "report_files": report,
        **more,
    }
    return registry.register(model=MODEL, release=release, **wanted)


def manifest_of(release: int, build_key: str) -> Any:
    made = manifest(release, (), build_key)
    return type(made)(**{**vars(made), "created": "2026-11-20T19:30:00Z"})
