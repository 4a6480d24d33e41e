"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LISTED = 20


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean 'x'?`, or the whole list if nothing comes near."""
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    for candidate in known:
        if close and candidate.lower() == close[0]:
            return f"did you mean '{candidate}'?"
    if len(known) <= _LISTED:
        return "known: " + ", ".join(known)
    return "the nearest known: " + ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.0))
