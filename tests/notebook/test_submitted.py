"""ep.submit against the recording double of Kubeflow's API: planned, sent once, followed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import enginepress as ep
from enginepress.compile_options import CompileOptions
from enginepress.errors import BuildError, SourceError, UsageError
from enginepress.notebook.submitted import Submitted
from enginepress.run import cluster
from enginepress.run.packages import Package
from enginepress.steps.run_report import in_log
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


def test_it_checks_what_the_command_line_checks(
    kfp_api: KfpApi, recipe_path: Path, options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINEPRESS_IMAGE", raising=False)
    with pytest.raises(UsageError, match="which image"):
        ep.submit(recipe_path, host=kfp_api.url)
    with pytest.raises(UsageError, match="'2' is not a whole number"):
        ep.submit(recipe_path, host=kfp_api.url, options=options, parameters={"gpu_count": "2"})
    with pytest.raises(UsageError, match="'gpus' is no parameter"):
        ep.submit(recipe_path, host=kfp_api.url, options=options, parameters={"gpus": 2})
    with pytest.raises(TypeError, match="no_such_option"):
        ep.submit(recipe_path, host=kfp_api.url, options=options, no_such_option=1)  # type: ignore[call-arg]
    assert kfp_api.requests == []


def test_a_service_account_an_image_and_no_plan_are_given_as_on_the_command_line(
    kfp_api: KfpApi, hub: HubServer, recipe_path: Path, options: CompileOptions
) -> None:
    asked = len(hub.requests)
    ep.submit(
        recipe_path,
        host=kfp_api.url,
        image=options.image,
        service_account="enginepress-pipeline",
        parameters={"gpu_count": 2, "node_selector": {"zone": "a"}},
        plan=False,
        background=True,
    )
    assert len(hub.requests) == asked, "the source is left alone"
    (sent,) = kfp_api.asked("POST", "/runs")
    assert sent.body["service_account"] == "enginepress-pipeline"
    assert sent.body["runtime_config"]["parameters"]["gpu_count"] == 2
    (uploaded,) = kfp_api.asked("POST", "/pipelines/upload_version")
    assert options.image in uploaded.body


def test_the_docs_work_as_they_are_written(kfp_api: KfpApi, recipe_path: Path, options: CompileOptions) -> None:
    page = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text()
    (written,) = re.findall(r"```python\n(sent = ep.submit\(.*?)```", page, re.DOTALL)
    for told, here in (
        ("recipes/my-model.yaml", str(recipe_path)),
        ("https://kubeflow.example.org/pipeline", kfp_api.url),
        ("SITE/enginepress@sha256:…", options.image),
    ):
        assert told in written
        written = written.replace(told, here)
    names: dict[str, Any] = {"ep": ep}
    exec(written, names)
    assert names["sent"].state.good
    (sent,) = kfp_api.asked("POST", "/runs")
    assert (sent.body["service_account"], sent.body["runtime_config"]["parameters"]["store_pvc"]) == (
        "enginepress-pipeline",
        "models",
    )


def test_a_run_that_has_ended_gives_its_report(kfp_api: KfpApi, recipe_path: Path, options: CompileOptions) -> None:
    kfp_api.backend.logs = {"report": in_log("# Run tiny: succeeded") + "\n"}
    sent = ep.submit(recipe_path, host=kfp_api.url, options=options, background=True, progress=False)
    assert sent.report is None, "it has not ended"
    assert sent.wait().report == "# Run tiny: succeeded"
    kfp_api.backend.lost_logs = {"report"}
    assert sent.report is None, "its pod is gone"


def test_what_cannot_be_planned_is_not_sent(kfp_api: KfpApi, tmp_path: Path, options: CompileOptions) -> None:
    recipe = {"name": "tiny", "source": "hf://org/gone", "stores": ["s3://models/releases"]}
    with pytest.raises(SourceError, match="org/gone"):
        ep.submit(recipe, host=kfp_api.url, options=options)
    with pytest.raises(UsageError, match="is a path of this machine"):
        ep.submit({**recipe, "source": f"file://{tmp_path}"}, host=kfp_api.url, options=options)
    assert kfp_api.requests == []
