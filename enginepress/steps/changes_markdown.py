"""How the recipes of a scheduled rebuild stand, as Markdown: for find_changed's own page, and for the run's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from enginepress.report.markdown import code_span, inline, table


def changes_markdown(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that tell what is to be built and why, and what cannot be.

    Args:
        changes: as `steps.changed.Change.to_json` has them.
    """
    counts = Counter(one["state"] for one in changes)
    lines = [f"{len(changes)} looked at: " + ", ".join(f"{n} {s}" for s, n in sorted(counts.items())) + ".", ""]
    to_build = [one for one in changes if one["state"] not in ("current", "failed")]
    if to_build:
        rows = [
            (one["name"], one["state"], "; ".join(one.get("reasons", ())), str(one.get("revision", ""))[:12]) for one in to_build
        ]
        lines += table(("to be built", "state", "why", "revision"), rows)
    for one in changes:
        if (error := one.get("error")) is not None:
            where = f"{inline(error['where'])}: " if error.get("where") and error["where"] != one["path"] else ""
            lines += [f"{code_span(one['path'])} {where}{inline(error['message'])}", ""]
            lines += [f"What to do: {inline(error['fix'])}", ""] if error.get("fix") else []
    noted = [f"- {code_span(one['path'])} {inline(one['note'])}" for one in changes if one.get("note")]
    return [*lines, *noted, *([""] if noted else [])]
