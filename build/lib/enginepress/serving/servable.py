"""Whether the engines of a repository run on this machine: asked before a server is started, which could only die of them.

TensorRT engines say beside them what they were built on (`enginepress.engines.tensorrt_llm.record`). Everything else runs, or
its backend says why it does not.
"""

from __future__ import annotations

from pathlib import Path


def check_servable_here(repository: Path) -> None:
    """Asks nvidia-smi and the installed packages, and only if there is an engine that cares.

    Args:
        repository: placed or not; a channel's link will do.

    Raises:
        GateError: an engine of another GPU architecture or TensorRT-LLM version; says both sides.
    """
    folders = sorted(record.parent for record in repository.glob("*/[0-9]*/*/enginepress.json"))
    if folders:
        from enginepress.engines.tensorrt_llm.servable import check_runs_here

        for folder in folders:
            check_runs_here(folder)
