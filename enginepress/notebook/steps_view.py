"""The steps of a run as one looks at them: what is done, what is at work and what it says, how long each took."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from enginepress.notebook import html
from enginepress.report.html import safe_text

_MARKS = {
    "done": ("✔", html.GREEN),
    "failed": ("✘", html.RED),
    "running": ("▶", html.BLUE),
    "ended": ("■", html.AMBER),
    "waiting": ("·", html.GREY),
}


@dataclass
class StepState:
    """One step. `seconds` is None while it is not known."""

    status: str = "waiting"
    words: str = ""
    seconds: float | None = None
    began: float = 0.0


class StepsView:
    """Changed by whoever follows the run, shown by `display.Live`.

    Args:
        name: of what is run.
        steps: in their order.
        where: an address where people see more, or empty.
    """

    def __init__(self, name: str, steps: Sequence[str], *, where: str = "") -> None:
        self.name = name
        self.steps = {step: StepState() for step in steps}
        self.state = ""
        self.where = where

    def follow(self, step: str, status: str, words: str) -> None:
        """What `run_recipe` tells."""
        state = self.steps.setdefault(step, StepState())
        if status == "running" and state.status != "running":
            state.began = time.monotonic()
        if status != "running" and (took := re.fullmatch(r"([\d.]+) s", words)):
            state.seconds, words = float(took[1]), ""
        state.status, state.words = status, words

    def end(self, state: str) -> None:
        """The run has ended: what was at work is not any more."""
        self.state = state
        for step in self.steps.values():
            if step.status == "running":
                step.status = "ended"

    @property
    def is_started(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.state) or any(step.status != "waiting" for step in list(self.steps.values()))

    def news(self) -> list[tuple[str, str, str]]:
        said = []
        for name, step in list(self.steps.items()):
            took = f"{step.seconds:.1f} s" if step.seconds is not None else ""
            said.append((name, step.status, step.words or took))
        return said

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.state}" if self.state else self.name]
        lines += [
            f"  {_MARKS.get(status, _MARKS['waiting'])[0]} {name:<9} {words}".rstrip() for name, status, words in self.news()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        steps = list(self.steps.items())  # whoever follows the run may add one meanwhile
        longest = max([*(s.seconds or 0.0 for _, s in steps), 1e-9])
        rows = []
        for name, step in steps:
            mark, colour = _MARKS.get(step.status, _MARKS["waiting"])
            bar = html.small_bar(step.seconds / longest, html.BLUE) if step.seconds is not None else ""
            if step.status == "running":
                took = f"{time.monotonic() - step.began:.0f} s"
            else:
                took = f"{step.seconds:.1f} s" if step.seconds is not None else ""
            label = f"<b>{safe_text(name)}</b>" if step.status == "running" else safe_text(name)
            if step.status == "waiting":
                label = html.soft(name)
            rows.append((html.coloured(mark, colour), label, safe_text(took), bar, html.soft(step.words)))
        done = sum(s.status == "done" for _, s in steps)
        note = self.state or f"{done} of {len(steps)} steps"
        where = f'<div style="margin-top:8px">{html.link(self.where, self.where)}</div>' if self.where else ""
        return html.card(html.title(self.name, note), html.table(rows), where)
