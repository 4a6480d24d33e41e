"""Timings of kernels that TensorRT keeps between builds: with them, building again takes a fraction of the time.

They hold for one GPU and one TensorRT only, so each pair has a file of its own, in the first of these that there is:
`$ENGINEPRESS_TIMING_CACHE`, `timings/` of the workspace that the engine is built in, `$XDG_CACHE_HOME/enginepress/timings`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from enginepress.files import user_cache

VARIABLE = "ENGINEPRESS_TIMING_CACHE"


def timing_cache(output: Path, *, gpu: str, sm: str, tensorrt: str, environment: Mapping[str, str] | None = None) -> Path:
    """The file of this GPU and TensorRT.

    Args:
        output: the engine's folder; in a workspace it is `<workspace>/partial/<…>/output`.
    """
    environment = os.environ if environment is None else environment
    if own := environment.get(VARIABLE):
        folder = Path(own)
    elif output.parent.parent.name == "partial":
        folder = output.parent.parent.parent / "timings"
    else:
        folder = user_cache(environment) / "enginepress" / "timings"
    return folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", f"{gpu}-sm{sm}-tensorrt-{tensorrt}") + ".cache")


def fetch(cache: Path, scratch: Path) -> None:
    """A copy for the tool, if there is one. Without it the tool starts anew."""
    try:
        shutil.copyfile(cache, scratch)
    except OSError:
        scratch.unlink(missing_ok=True)


def keep(scratch: Path, cache: Path) -> None:
    """Keeps what the tool wrote; whole, since others may read it at any moment. A cache that cannot be kept costs time only."""
    try:
        if scratch.stat().st_size == 0:
            return
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_name(f".{cache.name}.{os.getpid()}")
        shutil.copyfile(scratch, partial)
        os.replace(partial, cache)
    except OSError:
        return
