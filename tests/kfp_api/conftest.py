"""The double, and what talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enginepress.compile_options import CompileOptions
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe
from enginepress.run.api import Api
from enginepress.run.cluster import ClusterRun, submit
from enginepress.run.connection import connect
from enginepress.run.packages import Package, package_of
from tests.kfp_api.server import KfpApi

RECIPE = """\
name: tiny
source: hf://org/tiny@main
engine: {builder: onnxruntime, precision: int8}
checks: {prompts: [{text: "The capital of France is", pattern: Paris}]}
stores: ["s3://models/releases"]
registry: {password: "${MLFLOW_TRACKING_PASSWORD}", username: "${MLFLOW_TRACKING_USERNAME}"}
"""
Submit = Callable[..., ClusterRun]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TOKEN", "COOKIE", "ENDPOINT", "CA", "TOKEN_COMMAND"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # kfp's own client keeps state there


@pytest.fixture
def kfp_api() -> Iterator[KfpApi]:
    with KfpApi() as server:
        yield server


@pytest.fixture(scope="session")
def options() -> CompileOptions:
    return CompileOptions(image="registry.example.org/enginepress@sha256:" + "a" * 64)


@pytest.fixture(scope="session")
def package(options: CompileOptions, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package_of("build_and_publish", options, cache=tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def recipe(recipe_path: Path) -> Recipe:
    return load_recipe(recipe_path)


@pytest.fixture
def quick(kfp_api: KfpApi) -> Api:
    """An API client without patience to spare."""
    return Api(connect(kfp_api.url, environment={}), pauses=(0.01, 0.01, 0.01), looks=(0.01, 0.01))


@pytest.fixture
def send(kfp_api: KfpApi, recipe: Recipe, package: Package, quick: Api) -> Submit:
    """Submits the recipe."""

    def submit_it(api: Api = quick, **options: object) -> ClusterRun:
        return submit(recipe, api.connection, package=package, api=api, **options)  # type: ignore[arg-type]

    return submit_it
