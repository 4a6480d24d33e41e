"""What the parts share: the size of the models, time that is left, and values that fit into a JSON file."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT_END = 1500
"""Characters that are kept of a traceback or of a log."""


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        device: "cuda" or "cpu"; with "cpu" both sides of each comparison are computed by the CPU.
        tiny: sizes with which everything runs in a minute on two cores.
        scratch: an empty folder for checkpoints.
        deadline: of `time.monotonic()`.
        skipped, cases: of the conversions, the most important first, so many are left out and so many done.
    """

    device: str
    tiny: bool
    scratch: Path
    deadline: float
    cases: int
    skipped: int = 0

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


def isolated(part: Callable[[Settings], dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """What the part found, or how it failed: nothing that goes wrong in it may keep the others from running."""
    start = time.monotonic()
    try:
        found = {"ok": True, **part(settings)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a library's SystemExit
        found = failure(error)
    return {**found, "seconds": round(time.monotonic() - start, 2)}


def failure(error: BaseException) -> dict[str, Any]:
    """To be called where it was caught."""
    return {
        "ok": False,
        "error": f"{type(error).__name__}: {error}"[:TEXT_END],
        "traceback": traceback.format_exc()[-TEXT_END:],
    }


def rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
