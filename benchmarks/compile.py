"""Compiling both pipelines, as a whole process; against it, a process that only imports what compiling needs of kfp."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing import Times, in_turns

ROUNDS = 5


def compile_times(folder: Path) -> dict[str, Times]:
    image = "registry.example/enginepress@sha256:" + "0" * 64
    commands = {
        "compile": [sys.executable, "-m", "enginepress", "compile", "--image", image, "--output", str(folder)],
        "import kfp": [sys.executable, "-c", "import kfp.compiler, kfp.kubernetes"],
    }
    return in_turns(commands, rounds=ROUNDS)
