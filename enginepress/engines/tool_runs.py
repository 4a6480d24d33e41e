"""What builders share that run somebody else's tool: its environment, a folder for it, and what its failure means."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginepress.errors import BuildError, SourceError
from enginepress.json_text import parse_json
from enginepress.process import last_lines
from enginepress.recipe import Recipe

# ------------------------------------------------------------------------------------------------------------------
# Before it runs
# ------------------------------------------------------------------------------------------------------------------

_HIDDEN = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PROXY|CREDENTIAL|(^|_)(KEY|PAT|AUTH)(_|$)", re.IGNORECASE)
"""Names of environment variables that a tool does not get to see, whatever the recipe says of them."""


def offline_environment(ours: Mapping[str, str], scratch: Path, recipe: Recipe) -> dict[str, str]:
    """Our environment without secrets, those that the recipe names by any name among them, and without what would change a
    tool's output; Hugging Face's libraries are told to stay offline, and keep their caches in `scratch`."""
    secret = recipe.secret_variables()
    kept = {key: value for key, value in ours.items() if key not in secret and not _HIDDEN.search(key)}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(scratch / "cache"),
        "HF_DATASETS_CACHE": str(scratch / "cache" / "datasets"),
        "HF_MODULES_CACHE": str(scratch / "modules"),
        # Weights that were not found are listed as a warning.
        "TRANSFORMERS_VERBOSITY": "warning",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # argparse wraps its usage to this width, and `--help` is read.
        "COLUMNS": "200",
    }


@contextmanager
def tool_scratch(output: Path) -> Iterator[Path]:
    """A folder for one tool. It lies in the output, so that whoever sweeps up a killed build sweeps it up as well."""
    scratch = output / ".scratch"
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint or of what a tool made.

    Raises:
        SourceError: if the file is missing or holds none.
    """
    try:
        value = parse_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        raise SourceError("is missing", where=str(path)) from None
    if not isinstance(value, dict):
        raise SourceError("is not a JSON object", where=str(path))
    return value


# ------------------------------------------------------------------------------------------------------------------
# After it has failed
# ------------------------------------------------------------------------------------------------------------------

Cause = tuple[str, str, str]
"""A regular expression of the tool's output, what it means, and what to do; groups of the first may stand in the others."""

DISK_FULL: Cause = (
    r"No space left on device|Disk quota exceeded|os error 28",
    "there is no space left",
    "free some space, or name a workspace on another disk",
)
OUT_OF_MEMORY: Cause = (
    r"MemoryError|std::bad_alloc|[Cc]annot allocate memory|can't allocate memory|[Nn]ot enough memory",
    "memory ran out",
    "{memory}",
)
OWN_CODE: Cause = (
    r"trust_remote_code",
    "the checkpoint wants to run its own code",
    "if you trust it, set source.trust_remote_code in the recipe",
)
BROKEN_WEIGHTS: Cause = (
    r"SafetensorError|MetadataIncompleteBuffer|InvalidHeader|HeaderTooLarge",
    "the checkpoint's weights cannot be read",
    "check the checkpoint at its source; `enginepress run --force` downloads and builds again",
)


def missing_package(fix: str) -> Cause:
    return r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)", "a package is missing or does not fit ({what})", fix


def tool_failure(tool: str, status: int, log: Path, causes: Sequence[Cause], *, memory: str) -> BuildError:
    """The error for a tool that ended with a status other than 0: what its output means, with the line that says so and the
    last one; where nobody knows, its last lines.

    Args:
        causes: tried in this order.
        memory: what to do if memory ran out.
    """
    tail = last_lines(log, 400)
    what, fix, shown = f"exit status {status}", "read the log", last_lines(log)
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        what, fix = "it was killed, most likely because memory ran out", memory
    elif status < 0:
        what = f"it was ended by {signal.Signals(-status).name}"
    else:
        for pattern, cause, advice in causes:
            if found := re.search(pattern, tail):
                details = {key: (value or "").strip() for key, value in found.groupdict().items()}
                what, fix = cause.format(**details), advice.format(memory=memory, **details)
                telling = tail[tail.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0].strip()
                shown = "\n".join(dict.fromkeys([telling, last_lines(log, 1).strip()]))
                break
    return BuildError(f"{tool} failed: {what}\n{shown}", where=str(log), fix=fix)
