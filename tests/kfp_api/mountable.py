"""The examples under a path that a pod may mount: this checkout's own, or a copy if it lies under /tmp, a step's scratch."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def _examples() -> Path:
    own = Path(__file__).resolve().parents[2] / "examples"
    if own.parts[1] != "tmp":
        return own
    folder = tempfile.mkdtemp(prefix="enginepress-test-", dir="/var/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return shutil.copytree(own, Path(folder) / "examples")


EXAMPLES = _examples()
