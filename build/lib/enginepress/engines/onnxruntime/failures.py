"""What a failed run of the model builder means, read from its exit status and its log, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

from enginepress.engines.tool_runs import BROKEN_WEIGHTS, DISK_FULL, OUT_OF_MEMORY, OWN_CODE, Cause, missing_package, tool_failure
from enginepress.errors import BuildError

_CAUSES: tuple[Cause, ...] = (
    DISK_FULL,
    OUT_OF_MEMORY,
    missing_package("pip install 'enginepress[onnxruntime]'"),
    OWN_CODE,
    BROKEN_WEIGHTS,
    (
        r"NotImplementedError: (?P<what>.+)",
        "ONNX Runtime GenAI cannot build this model ({what})",
        "use another model; docs/onnxruntime.md lists what can be built",
    ),
)

_LOAD_REPORT = re.compile(r"^(?P<name>\S.*?)\s*\|\s*(?P<status>MISSING|MISMATCH|CONVERSION)\s*(?:\||$)")
"""A line of the table in which transformers tells which weights it did not find. It goes on with random ones."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def build_failure(status: int, log: Path, *, memory_gib: float) -> BuildError:
    """The error for a run that ended with a status other than 0."""
    memory = f"the build needs about {memory_gib:.1f} GiB: use a machine with more, or end what else is running there"
    return tool_failure("the model builder", status, log, _CAUSES, memory=memory)


def unfound_weights(log: Path) -> list[str]:
    """Names of weights that transformers did not find in the checkpoint, or not in the right shape, according to the log."""
    with open(log, encoding="utf-8", errors="replace") as stream:
        found = (_LOAD_REPORT.match(_ANSI.sub("", line)) for line in stream)
        return [match["name"] for match in found if match]
