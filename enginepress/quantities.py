"""Spans of time and amounts of bytes, as people write them: `30d`, `12h`, `100GB`, `1.5 TiB`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginepress.errors import UsageError

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000 ** (power + 1) for power, prefix in enumerate("kmgtp")},
    **{f"{prefix}ib": 1024 ** (power + 1) for power, prefix in enumerate("kmgtp")},
}
_QUANTITY = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds. Raises UsageError for anything but a number and one of ms, s, m, h, d, w."""
    return _parse(text, _SECONDS, "a span of time", "write it as 30d, 12h, 90m or 45s")


def parse_size(text: str) -> int:
    """Bytes. Raises UsageError for anything but a number and a unit such as MB, GB, GiB, TB."""
    return int(_parse(text, _BYTES, "an amount of bytes", "write it as 100GB, 1.5TB or 500MiB"))


def size_text(count: float) -> str:
    """Bytes for people."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1000**power:
            return f"{count / 1000**power:,.1f} {unit}"
    return f"{count / 1000:,.1f} kB"


def memory_text(count: float) -> str:
    """Bytes of memory and of plans for people, in powers of 1024. Small ones in MiB, so that a toy model's are not all zero."""
    return f"{count / 2**30:.2f} GiB" if abs(count) >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def duration_text(seconds: float) -> str:
    """A span of time for people, in whole seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _parse(text: str, units: Mapping[str, float], what: str, fix: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise UsageError(f"'{text}' is not {what}", fix=fix)
    return float(match[1]) * units[match[2].lower()]
