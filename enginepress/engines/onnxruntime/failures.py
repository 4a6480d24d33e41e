"""What a failed run of the model builder means, read from its exit status and its log, and what to do about it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from enginepress.errors import BuildError
from enginepress.process import last_lines

_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded|os error 28",
        "there is no space left",
        "free some space, or name a workspace on another disk",
    ),
    (
        r"MemoryError|std::bad_alloc|[Cc]annot allocate memory|can't allocate memory|[Nn]ot enough memory",
        "memory ran out",
        "{memory}",
    ),
    (
        r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)",
        "a package is missing or does not fit ({what})",
        "pip install 'enginepress[onnxruntime]'",
    ),
    (
        r"trust_remote_code",
        "the checkpoint wants to run its own code",
        "if you trust it, set source.trust_remote_code in the recipe",
    ),
    (
        r"SafetensorError|MetadataIncompleteBuffer|InvalidHeader|HeaderTooLarge",
        "the checkpoint's weights cannot be read",
        "check the checkpoint at its source; `enginepress run --force` downloads and builds again",
    ),
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
    tail = last_lines(log, 200)
    memory = f"the build needs about {memory_gib:.1f} GiB: use a machine with more, or end what else is running there"
    what, fix = f"exit status {status}", "read the log"
    if status == -signal.SIGKILL or status == 128 + signal.SIGKILL:
        what, fix = "it was killed, most likely because memory ran out", memory
    elif status < 0:
        what = f"it was ended by {signal.Signals(-status).name}"
    else:
        for pattern, cause, advice in _CAUSES:
            if found := re.search(pattern, tail):
                details = {key: value.strip() for key, value in found.groupdict().items()}
                what, fix = cause.format(**details), advice.format(memory=memory)
                break
    return BuildError(f"the model builder failed: {what}\n{last_lines(log)}", where=str(log), fix=fix)


def unfound_weights(log: Path) -> list[str]:
    """Names of weights that transformers did not find in the checkpoint, or not in the right shape, according to the log."""
    with open(log, encoding="utf-8", errors="replace") as stream:
        found = (_LOAD_REPORT.match(_ANSI.sub("", line)) for line in stream)
        return [match["name"] for match in found if match]
