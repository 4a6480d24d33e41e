"""What `validate` finds: one dataclass for all checks, and short ways to make it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
"""error: Triton will not serve it, or will serve it wrongly. warning: it may be wrong, or cannot be checked from here."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file.

    Attributes:
        model: name of the Triton model, or None if it is about the whole repository.
        file: path relative to the repository (for a release: to the release's folder), or "." for all of it.
        message: what is wrong, naming field and value.
        fix: what to do, or None.
    """

    severity: Severity
    model: str | None
    file: str
    message: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "model": self.model,
            "file": self.file,
            "message": self.message,
            "fix": self.fix,
        }


def error(model: str | None, file: str, message: str, fix: str | None = None) -> Finding:
    return Finding("error", model, file, message, fix)


def warning(model: str | None, file: str, message: str, fix: str | None = None) -> Finding:
    return Finding("warning", model, file, message, fix)


def info(model: str | None, file: str, message: str, fix: str | None = None) -> Finding:
    return Finding("info", model, file, message, fix)


def printable(path: str) -> str:
    """A file's name that can be printed, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", errors="replace")
