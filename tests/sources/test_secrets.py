"""Where a token goes: to the hub. Not into a file, a line of output, a process's arguments, or to another host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources.hub_server import Fault, HubServer
from tests.sources.test_kill import CHILD
from tests.sources.tiny import checkpoint

TOKEN = "hf_thisTokenIsSecret"
REPO = "org/tiny"


def _run(workspace: Path, **environment: str) -> tuple[int, str, bytes]:
    """A download as the step does it. Returns its status, output, and what was seen of its arguments and environment's file."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(workspace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    arguments = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    output, _ = child.communicate()
    return child.returncode, output, arguments


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault("model.safetensors", cut_after=3_000_000, times=3), Fault("*.json", status=503)],
        [Fault("model.safetensors", corrupt_at=5, times=-1)],
        [Fault("model.safetensors", expired=True, times=-1)],
    ],
    ids=["no fault", "broken connections", "wrong bytes", "refused"],
)
def test_a_token_is_seen_by_the_hub_and_nowhere_else(faults: list[Fault], hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(size=9_000_000), token=TOKEN)
    hub.faults += faults
    status, output, arguments = _run(tmp_path, HF_TOKEN=TOKEN)
    assert (status == 0) == (len(faults) != 1)
    assert {r.token for r in hub.requests if not r.path.startswith("/cdn/")} == {TOKEN}
    assert {r.token for r in hub.requests if r.path.startswith("/cdn/")} == {None}
    assert TOKEN not in output
    assert "secret-signature" not in output
    assert TOKEN.encode() not in arguments
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TOKEN.encode() not in content, path
            assert b"secret-signature" not in content, path
