"""What a watcher says of each pass.

    <workspace>/watch/passes/<time>.json .md   each pass; the last fifty are kept
    <workspace>/watch/last.json last.md        the newest

What failed is remembered by `steps.attempts`. What was built needs no remembering: the stores say it. So a watcher that is
killed anywhere repeats nothing: what it had built is current for the next one, and what it was building goes on where it
stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from enginepress.report.markdown import code_span, inline, table
from enginepress.workspace import Workspace

KEPT_PASSES = 50

Outcome = Literal["current", "built", "finished", "failed", "postponed", "ended"]


@dataclass(frozen=True)
class Watched:
    """What became of one recipe in one pass.

    Attributes:
        outcome: `built`: there is a new release. `finished`: what was missing around one was added. `postponed`: it failed before
            and is not tried again yet. `ended`: the watcher was ended before it was through.
        state, reasons, note: as `steps.changed.Change` has them.
        error: `EnginepressError.to_json` of what failed now, or the last time.
        failures: how often this very build has failed.
        again: when it is tried again (UTC), if it was postponed.
    """

    path: str
    name: str
    outcome: Outcome
    state: str
    reasons: tuple[str, ...] = ()
    note: str = ""
    release: int = 0
    revision: str = ""
    seconds: float = 0.0
    error: Mapping[str, Any] | None = None
    failures: int = 0
    again: str = ""

    @property
    def is_well(self) -> bool:
        return self.outcome in ("current", "built", "finished")


@dataclass(frozen=True)
class Pass:
    """One pass over all recipes. `seconds`: until everything was asked, and until everything was built."""

    started: str
    seconds: float
    asked_seconds: float
    recipes: tuple[Watched, ...]

    def counts(self) -> dict[str, int]:
        """Recipes by outcome, without those that there are none of."""
        order: tuple[Outcome, ...] = ("current", "built", "finished", "failed", "postponed", "ended")
        found = {outcome: sum(r.outcome == outcome for r in self.recipes) for outcome in order}
        return {outcome: count for outcome, count in found.items() if count}

    def summary(self) -> str:
        if not self.recipes:
            return f"no recipes there: name recipe files, or folders that hold some ({self.seconds:.1f} s)"
        counted = ", ".join(f"{count} {outcome}" for outcome, count in self.counts().items())
        total = "1 recipe" if len(self.recipes) == 1 else f"{len(self.recipes)} recipes"
        return f"{total}: {counted} ({self.seconds:.1f} s)"

    def to_json(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "asked_seconds": round(self.asked_seconds, 3),
            "counts": self.counts(),
            "recipes": [asdict(r) for r in self.recipes],
        }

    def to_markdown(self) -> str:
        """What people look at: what was done, what failed and what to do about it, and how many were left alone."""
        lines = [f"# Watched recipes, {self.started}", "", inline(self.summary()), ""]
        done = [r for r in self.recipes if r.outcome in ("built", "finished")]
        if done:
            rows = [(r.name, str(r.release), r.revision[:12], "; ".join(r.reasons), f"{r.seconds:.1f}") for r in done]
            lines += ["## Built", "", *table(("model", "release", "revision", "why", "seconds"), rows)]
        wrong = [r for r in self.recipes if not r.is_well]
        if wrong:
            lines += ["## Not built", ""]
            for r in wrong:
                lines.append(f"- {code_span(r.path)} {r.outcome}: {inline(wrong_text(r))}")
            lines.append("")
        notes = [r for r in self.recipes if r.note]
        if notes:
            lines += ["## Notes", "", *(f"- {code_span(r.path)} {inline(r.note)}" for r in notes), ""]
        return "\n".join(lines).rstrip() + "\n"


def wrong_text(watched: Watched) -> str:
    """Why a recipe was not built, and what to do, in one line."""
    if watched.error is None:
        return "the watcher was ended; the next pass goes on where it stopped"
    error = watched.error
    message = re.sub(r"\s*\n\s*", "; ", re.sub(r":\s*\n\s*", ": ", str(error["message"]).strip()))
    text = f"{error['where']}: {message}" if error.get("where") else message
    if watched.failures > 1:
        text += f" (failed {watched.failures} times)"
    if watched.again:
        text += f"; tried again after {watched.again}, as soon as the recipe or its source changes, or with --retry-failed"
    return text + (f"; next: {error['fix']}" if error.get("fix") else "")


def keep_pass(workspace: Workspace, done: Pass) -> None:
    """Writes the pass as JSON and Markdown.

    Raises:
        WorkspaceError: if the workspace cannot be written.
    """
    stamp = done.started.replace(":", "").replace("-", "")
    for name in (f"passes/{stamp}", "last"):
        workspace.write_json(done.to_json(), "watch", f"{name}.json")
        workspace.write_text(done.to_markdown(), "watch", f"{name}.md")
    kept = sorted(workspace.path("watch", "passes").glob("*.json"))
    for old in kept[:-KEPT_PASSES]:
        old.unlink(missing_ok=True)
        old.with_suffix(".md").unlink(missing_ok=True)
