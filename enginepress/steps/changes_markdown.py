"""How the recipes of a scheduled rebuild stand, as Markdown: for find_changed's own page, and for the run's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from enginepress.report.markdown import code_span, inline, table

TRY_NOW = (
    "What is held back is tried again by itself then, and at once when the recipe, its source or what builds it changes. To try "
    "it now: `enginepress schedule --now --retry-failed`, or a run of this pipeline with `retry_failed` true."
)


def is_held_back(change: Mapping[str, Any]) -> bool:
    """Whether there is something to build that failed before and is not tried yet."""
    return change.get("held_back") is not None


def is_built(change: Mapping[str, Any]) -> bool:
    """Whether this run builds it."""
    return change["state"] not in ("current", "failed") and not is_held_back(change)


def changes_markdown(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that tell what is to be built and why, what cannot be, and what is held back.

    Args:
        changes: as `steps.find_changed` leaves them.
    """
    counts = Counter("held back" if is_held_back(one) else one["state"] for one in changes)
    lines = [f"{len(changes)} looked at: " + ", ".join(f"{n} {s}" for s, n in sorted(counts.items())) + ".", ""]
    to_build = [one for one in changes if is_built(one)]
    if to_build:
        rows = [
            (one["name"], one["state"], "; ".join(one.get("reasons", ())), str(one.get("revision", ""))[:12]) for one in to_build
        ]
        lines += table(("to be built", "state", "why", "revision"), rows)
    for one in changes:
        if (error := one.get("error")) is not None:
            lines += _wrong(one["path"], "", error)
    held_back = [one for one in changes if is_held_back(one)]
    for one in held_back:
        failure = one["held_back"]
        lines += _wrong(one["path"], f"is held back until {failure['again']}, {times(failure['failures'])}: ", failure["error"])
    lines += [TRY_NOW, ""] if held_back else []
    noted = [f"- {code_span(one['path'])} {inline(one['note'])}" for one in changes if one.get("note")]
    return [*lines, *noted, *([""] if noted else [])]


def times(failures: int) -> str:
    """How often the same build has failed."""
    return "since its build failed" if failures == 1 else f"since its build failed {failures} times"


def _wrong(path: str, why: str, error: Mapping[str, Any]) -> list[str]:
    where = f"{inline(error['where'])}: " if error.get("where") and error["where"] != path else ""
    lines = [f"{code_span(path)} {why}{where}{inline(error['message'])}", ""]
    return [*lines, f"What to do: {inline(error['fix'])}", ""] if error.get("fix") else lines
