"""What is shown on a terminal of 80 columns, the width that most have."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

LAPTOP = Path(__file__).parents[2] / "examples" / "recipes" / "laptop.yaml"


def on_a_terminal(*arguments: str | Path, columns: int = 80) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "enginepress", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=theirs, env={**environment, "TERM": "xterm"})
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the end, as Linux tells it
        pass
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_outdated_shows_the_status_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    recipe = tmp_path / ("a-recipe-with-a-long-name-" * 3 + ".yaml")
    recipe.write_text(
        f"name: tiny\nsource: file://{LAPTOP.parents[1]}/checkpoints/tiny-llama\nstores: ['file://{tmp_path}/store']\n"
    )
    said = on_a_terminal("outdated", recipe, "--workspace", tmp_path / "workspace")
    assert "status" in said
    assert " new " in said
    assert all(len(line) <= 80 + len("\x1b[1m\x1b[0m") * 20 for line in said.splitlines())
