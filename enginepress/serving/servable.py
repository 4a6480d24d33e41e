"""Whether the engines of a repository run on this machine: asked before a server is started, which could only die of them.

TensorRT engines say beside them what they were built on (`enginepress.engines.tensorrt_llm.record`). Everything else runs, or
its backend says why it does not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from enginepress.errors import EnginepressError


def check_servable_here(repository: Path) -> None:
    """Asks nvidia-smi and the installed packages, and only if there is an engine that cares.

    Args:
        repository: placed or not; a channel's link will do.

    Raises:
        GateError: an engine of another GPU architecture or TensorRT-LLM version; says both sides.
    """
    folders = sorted(record.parent for record in repository.glob("*/[0-9]*/*/enginepress.json"))
    if not folders:
        return
    from enginepress.engines.tensorrt_llm.record import check_servable, read_record

    sm, version = _here()
    for folder in folders:
        record = read_record(folder)
        if record is not None:
            check_servable(record, sm=sm, tensorrt_llm=version)


def _here() -> tuple[str | None, str | None]:
    """Compute capability and TensorRT-LLM version, each None where there is none."""
    from enginepress.engines.tensorrt_llm import machine
    from enginepress.engines.tensorrt_llm.tools import find_tools

    try:
        sm: str | None = machine.local_gpu().sm
    except EnginepressError:
        sm = None
    try:
        python = find_tools("").python
    except EnginepressError:
        python = Path(shutil.which("python3") or "python3")
    try:
        version: str | None = machine.local_packages(python)["tensorrt_llm"]
    except EnginepressError:
        version = None
    return sm, version
