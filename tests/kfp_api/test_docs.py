"""docs/kubeflow.md, docs/submit.md and docs/schedule.md, word for word, against the double."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enginepress.run.compiled import PIPELINES
from tests.kfp_api.conftest import RECIPE
from tests.kfp_api.server import KfpApi

DOCS = Path(__file__).parents[2] / "docs"


def _commands(page: str) -> list[str]:
    """The lines of a page's code blocks that are commands of ours."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for language, block in blocks if not language for line in block.splitlines() if line.startswith("enginepress ")]


def test_each_page_has_its_commands() -> None:
    assert len(_commands("submit.md")) >= 9
    assert len(_commands("schedule.md")) >= 6
    assert len(_commands("kubeflow.md")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", ["kubeflow.md", "submit.md", "schedule.md"])
def test_the_commands_of_a_page_work_as_they_are_written(page: str, kfp_api: KfpApi, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "KF_PIPELINES_ENDPOINT": kfp_api.url,
        "ENGINEPRESS_IMAGE": "registry.example.org/enginepress@sha256:" + "a" * 64,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    run = ""
    for command in _commands(page):
        command = command.replace("https://KUBEFLOW", kfp_api.url)
        if run:
            command = re.sub(r"\bRUN\b", run, command)
        if command.startswith("enginepress submit"):
            command = command.replace("recipe.yaml", "recipe.yaml --poll 0.02 --no-plan")
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        late = command.startswith("enginepress cancel") and "had ended before" in done.stderr
        assert done.returncode == 0 or late, f"{command}: {done.stderr}"
        run = run or next(iter(kfp_api.backend.runs), "")
    if page == "kubeflow.md":
        assert {p.name for p in (tmp_path / "compiled").iterdir()} == {f"{name}.yaml" for name in PIPELINES}
        (sent,) = kfp_api.asked("POST", "/runs")
        assert sent.body["service_account"] == "enginepress-pipeline"
    if page == "schedule.md":
        assert [r["trigger"]["cron_schedule"]["cron"] for r in kfp_api.backend.recurring.values()] == ["0 0 3 * * *"]
