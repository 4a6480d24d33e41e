"""ep.submit against the recording double of Kubeflow's API: planned, sent once, followed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import enginepress as ep
from enginepress.compile_options import CompileOptions
from enginepress.errors import BuildError, SourceError, UsageError
from enginepress.notebook.submitted import Submitted
from enginepress.run import cluster
from enginepress.run.packages import Package
from tests.kfp_api.conftest import _no_environment as _no_environment
from tests.kfp_api.conftest import kfp_api as kfp_api
from tests.kfp_api.conftest import options as options
from tests.kfp_api.conftest import package as package
from tests.kfp_api.conftest import recipe_path as recipe_path
from tests.kfp_api.server import KfpApi
from tests.run.conftest import checkpoint as checkpoint
from tests.sources.conftest import hub as hub
from tests.sources.hub_server import HubServer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, hub: HubServer, checkpoint: Path) -> None:
    hub.add_repo("org/tiny", checkpoint)
    monkeypatch.setattr(cluster, "FIRST_POLL_S", 0.02)


def test_a_recipe_is_submitted_once_followed_and_shows_its_page(
    kfp_api: KfpApi, recipe_path: Path, options: CompileOptions, package: Package
) -> None:
    sent = ep.submit(recipe_path, host=kfp_api.url, options=options, background=True)
    assert isinstance(sent, Submitted)
    (uploaded,) = kfp_api.asked("POST", "/pipelines/upload_version")
    assert uploaded.body == package.text, "the notebook submits the pipeline that everybody submits"
    assert f'href="{sent.url}"' in sent._repr_html_()
    again = ep.submit(recipe_path, host=kfp_api.url, options=options, background=True)
    assert (again.id, len(kfp_api.backend.runs)) == (sent.id, 1)
    assert sent.wait() is sent
    assert sent.state is not None
    assert sent.state.good
    shown = sent._repr_html_()
    assert "succeeded" in shown
    assert shown.count("✔") >= 9


def test_a_submitted_run_can_be_awaited_and_cancelled(kfp_api: KfpApi, recipe_path: Path, options: CompileOptions) -> None:
    async def follow() -> None:
        sent = ep.submit(recipe_path, host=kfp_api.url, options=options, background=True)
        sent.cancel()
        with pytest.raises(BuildError, match="cancel"):
            await sent

    asyncio.run(follow())


def test_what_cannot_be_planned_is_not_sent(kfp_api: KfpApi, tmp_path: Path, options: CompileOptions) -> None:
    recipe = {"name": "tiny", "source": "hf://org/gone", "stores": ["s3://models/releases"]}
    with pytest.raises(SourceError, match="org/gone"):
        ep.submit(recipe, host=kfp_api.url, options=options)
    with pytest.raises(UsageError, match="is a path of this machine"):
        ep.submit({**recipe, "source": f"file://{tmp_path}"}, host=kfp_api.url, options=options)
    assert kfp_api.requests == []
