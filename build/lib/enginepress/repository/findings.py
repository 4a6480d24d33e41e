"""What `validate` finds: one dataclass for all checks, and short ways to make it."""

from __future__ import annotations

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
    return _finding("error", model, file, message, fix)


def warning(model: str | None, file: str, message: str, fix: str | None = None) -> Finding:
    return _finding("warning", model, file, message, fix)


def info(model: str | None, file: str, message: str, fix: str | None = None) -> Finding:
    return _finding("info", model, file, message, fix)


def _finding(severity: Severity, model: str | None, file: str, message: str, fix: str | None) -> Finding:
    return Finding(
        severity,
        None if model is None else printable(model),
        printable(file),
        printable(message),
        None if fix is None else printable(fix),
    )


def printable(text: str) -> str:
    """Text that any terminal and any JSON reader takes: names of files and values of configs may hold anything."""
    if text.isascii() and text.isprintable():
        return text
    clean = text.encode("utf-8", errors="replace").decode("utf-8")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in clean)
