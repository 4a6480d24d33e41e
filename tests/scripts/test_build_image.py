"""scripts/build_image.py ends in its own words when podman or buildah fails. (tests/cluster/test_image.py builds real images.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_image.py"


@pytest.mark.parametrize(
    ("failing", "words"),
    [("build", "the image was not built"), pytest.param("push", "x was built and not pushed", marks=pytest.mark.slow)],
)
def test_an_engine_that_fails_is_no_traceback(tmp_path: Path, failing: str, words: str) -> None:
    # Stands in for buildah, and fails at one of its commands as the real one does: a line of its own and a status.
    engine = tmp_path / "bin" / "buildah"
    engine.parent.mkdir()
    engine.write_text(f'#!/bin/sh\nif [ "$1" = {failing} ]; then echo "Error: no such host" >&2; exit 125; fi\n')
    engine.chmod(0o755)
    base = "python@sha256:" + "a" * 64
    # With a folder for wheels nothing is asked of an index.
    command = [
        sys.executable,
        SCRIPT,
        "slim",
        "--base",
        base,
        "--tag",
        "x",
        "--push",
        "--engine",
        "buildah",
        "--wheels",
        tmp_path,
    ]
    done = subprocess.run(command, env={"PATH": f"{engine.parent}:/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{words}: buildah ended with status 125" in done.stderr
    assert "Traceback" not in done.stderr
