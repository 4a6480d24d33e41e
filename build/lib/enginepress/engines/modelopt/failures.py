"""What a failed run of ModelOpt means, read from its exit status and its log, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from enginepress.engines.tool_runs import BROKEN_WEIGHTS, DISK_FULL, OUT_OF_MEMORY, Cause, missing_package, tool_failure
from enginepress.errors import BuildError

_CAUSES: tuple[Cause, ...] = (
    (
        r"(?m)^enginepress error: (?P<what>.+)",
        "{what}",
        "read the log; nothing that came out wrong is kept",
    ),
    DISK_FULL,
    (
        r"CUDA out of memory|CUDA error: out of memory",
        "the GPU's memory ran out",
        "free it, hide the GPU (CUDA_VISIBLE_DEVICES='') so that the CPU is used, or take a larger one",
    ),
    OUT_OF_MEMORY,
    missing_package("pip install 'enginepress[modelopt]'"),
    BROKEN_WEIGHTS,
    (
        r"(?:NotImplementedError|AssertionError): (?P<what>.+)",
        "ModelOpt cannot convert this model ({what})",
        "set engine.converter to 'image', or use another precision; docs/modelopt.md lists what is converted",
    ),
)


def conversion_failure(status: int, log: Path, *, memory_gib: float) -> BuildError:
    """The error for a run that ended with a status other than 0.

    Args:
        memory_gib: what the run takes, roughly.
    """
    memory = f"the conversion needs about {memory_gib:.1f} GiB: use a machine with more, or end what else is running there"
    return tool_failure("ModelOpt", status, log, _CAUSES, memory=memory)
