"""The live display of a run's steps on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from enginepress.steps import STEPS

_MARKS = {"done": ("✔", "green"), "failed": ("✘", "red"), "waiting": ("·", "dim")}


class LiveSteps:
    """One line a step: what is done, what is running and what it says. The display starts with the first step."""

    def __init__(self) -> None:
        self._states = dict.fromkeys(STEPS, ("waiting", ""))
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None

    def follow(self, step: str, status: str, text: str) -> None:
        self._states[step] = (status, text)
        if self._live is None:
            self._live = Live(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=8)
            self._live.start()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for step, (status, text) in self._states.items():
            if status == "running":
                table.add_row(self._spinner, Text(step, style="bold"), Text(text, style="cyan"))
            else:
                mark, style = _MARKS[status]
                table.add_row(Text(mark, style=style), Text(step, style=style), Text(text, style="dim"))
        return table
