"""Runs that are killed at any moment, in any of three ways, and run again: same release, nothing done twice, nothing left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginepress.repository.place import content_digest_of
from enginepress.workspace import ENVIRONMENT
from tests.run.conftest import Finished
from tests.run.recipes import enginepress, run_json, write_recipe

WAYS = ("the parent alone", "a task alone", "the whole group")


def _processes_of(workspace: Path) -> list[int]:
    """Every process that works for a run in this workspace: tasks and what they started, told by their environment."""
    wanted = f"{ENVIRONMENT}={workspace}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in variables:
                found.append(int(entry.name))
    return found


def _kill(parent: subprocess.Popen[bytes], workspace: Path, way: str) -> None:
    if way == "the whole group":
        os.killpg(parent.pid, signal.SIGKILL)
    elif way == "the parent alone":
        parent.kill()
    else:
        tasks = [pid for pid in _processes_of(workspace) if _command(pid).count("executor_main")]
        if tasks:
            os.kill(random.choice(tasks), signal.SIGKILL)
        else:
            parent.kill()
    parent.wait()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _complete_outputs(workspace: Path) -> dict[str, float]:
    """Each complete output with the moment at which it was started: one that is made again has another."""
    return {
        f"{p.parent.parent.name}/{p.parent.name}": json.loads(p.read_text())["started"]
        for kind in ("checkpoints", "engines", "repositories")
        for p in (workspace / kind).glob("*/record.json")
    }


def _wait_until_gone(workspace: Path, *, but: str = "") -> None:
    deadline = time.monotonic() + 10
    while left := [pid for pid in _processes_of(workspace) if not but or but not in _command(pid)]:
        assert time.monotonic() < deadline, f"still working: {[_command(pid)[:200] for pid in left]}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.slow] if n != 2 else [], id=f"{n}: {WAYS[n % 3]}") for n in range(24)]
)
@pytest.mark.timeout(900)
def test_a_killed_run_is_finished_by_the_next(tmp_path: Path, checkpoint: Path, finished_once: Finished, seed: int) -> None:
    moment = random.Random(seed).uniform(0.3, 1.02 * finished_once.result["seconds"] + 1.0)
    recipe = write_recipe(tmp_path / "site", checkpoint)
    workspace = tmp_path / "site" / "workspace"
    command = [sys.executable, "-m", "enginepress", "run", str(recipe), "-w", str(workspace)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        parent.wait(moment)
    except subprocess.TimeoutExpired:
        _kill(parent, workspace, WAYS[seed % 3])
    # A stub that was waiting for its server never notices that it was killed (serving/shared_memory.py): the next run ends it.
    _wait_until_gone(workspace, but="triton_python_backend_stub")
    before = _complete_outputs(workspace)

    result = run_json(recipe)

    after = _complete_outputs(workspace)
    assert {k: after[k] for k in before} == before, "a finished step was repeated"
    (row,) = json.loads(enginepress("releases", recipe, "--json").stdout)
    (undisturbed,) = json.loads(enginepress("releases", finished_once.recipe, "--json").stdout)
    assert row["content_digest"] == undisturbed["content_digest"] == content_digest_of(Path(row["folder"]))
    assert row["channels"] == ["candidate"]
    assert row["model_version"] == "1", "a repeated registration made a second version"
    assert result["release"] == 1
    assert run_json(recipe)["up_to_date"]
    assert not [p for p in (workspace / "partial").glob("*") if p.name != "checkpoint-files"]
    assert not list((workspace / "locks").glob("*"))
    _wait_until_gone(workspace)
    assert not list(Path("/dev/shm").glob("*enginepress*")) or _other_servers_run()


def _other_servers_run() -> bool:
    """Another test's server may be at work beside this test."""
    return any("tritonserver" in _command(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit())
