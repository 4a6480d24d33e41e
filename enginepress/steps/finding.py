"""One thing that doctor looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

REPAIR = "run the same command with --repair"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    status: Literal["ok", "mended", "warning", "error"]
    what: str
    message: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
