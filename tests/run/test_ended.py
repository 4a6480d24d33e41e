"""A run that systemd, cron's `timeout` or a preempted pod ends says so, leaves nothing running, and can be gone on with."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.recipes import run_json, write_recipe
from tests.run.test_killed import _processes_of, _wait_until_gone


@pytest.mark.parametrize(
    "ending",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.slow, id="SIGTERM"), pytest.param(signal.SIGINT, id="SIGINT")],
)
def test_a_run_that_is_ended_says_that_it_can_go_on(ending: signal.Signals, checkpoint: Path, built: Path) -> None:
    recipe = write_recipe(built, checkpoint)
    workspace = built / "workspace"
    command = [sys.executable, "-m", "enginepress", "run", str(recipe), "--workspace", str(workspace)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    told = ""
    while "download" not in told:  # the first step is done, the second one too
        line = parent.stderr.readline()
        assert line, told
        told += line
    parent.send_signal(ending)
    told += parent.stderr.read()
    assert parent.wait() == 128 + ending
    assert "finished steps are kept; run it again to go on" in told
    assert "Traceback" not in told
    _wait_until_gone(workspace)
    assert _processes_of(workspace) == []
    assert run_json(recipe)["release"] == 1
