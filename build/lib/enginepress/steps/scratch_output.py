"""Working on a local disk: convert and build write and read much more than what they leave, and a workspace is often a network
volume. Where the environment names a scratch folder, they work there, and what is finished is copied."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginepress.cluster import SCRATCH

LINKING = ("llmapi", "vllm")
"""Builders that link the checkpoint's files instead of making new ones: on another disk they would have to copy them."""


@contextmanager
def scratch_output(output: Path, builder: str) -> Iterator[Path]:
    """An empty folder to fill; its content is in `output` afterwards.

    Args:
        output: the empty folder in the workspace. It is the one to fill where no scratch folder is named.
    """
    scratch = os.environ.get(SCRATCH)
    if not scratch or builder in LINKING:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="enginepress-output-", dir=scratch) as folder:
        yield Path(folder)
        shutil.copytree(folder, output, symlinks=True, dirs_exist_ok=True)
