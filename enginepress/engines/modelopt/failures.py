"""What a failed run of ModelOpt means, read from its exit status and its log, and what to do about it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from enginepress.errors import BuildError
from enginepress.process import last_lines

_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"(?m)^enginepress error: (?P<what>.+)",
        "{what}",
        "read the log; nothing that came out wrong is kept",
    ),
    (
        r"No space left on device|Disk quota exceeded|os error 28",
        "there is no space left",
        "free some space, or name a workspace on another disk",
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory",
        "the GPU's memory ran out",
        "free it, hide the GPU (CUDA_VISIBLE_DEVICES='') so that the CPU is used, or take a larger one",
    ),
    (
        r"MemoryError|std::bad_alloc|[Cc]annot allocate memory|can't allocate memory|[Nn]ot enough memory",
        "memory ran out",
        "{memory}",
    ),
    (
        r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)",
        "a package is missing or does not fit ({what})",
        "pip install 'enginepress[modelopt]'",
    ),
    (
        r"SafetensorError|MetadataIncompleteBuffer|InvalidHeader|HeaderTooLarge",
        "the checkpoint's weights cannot be read",
        "check the checkpoint at its source; `enginepress run --force` downloads and builds again",
    ),
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
    tail = last_lines(log, 200)
    memory = f"the conversion needs about {memory_gib:.1f} GiB: use a machine with more, or end what else is running there"
    what, fix = f"exit status {status}", "read the log"
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        what, fix = "it was killed, most likely because memory ran out", memory
    elif status < 0:
        what = f"it was ended by {signal.Signals(-status).name}"
    else:
        for pattern, cause, advice in _CAUSES:
            if found := re.search(pattern, tail):
                details = {key: value.strip() for key, value in found.groupdict().items()}
                what, fix = cause.format(**details), advice.format(memory=memory)
                break
    return BuildError(f"ModelOpt failed: {what}\n{last_lines(log)}", where=str(log), fix=fix)
