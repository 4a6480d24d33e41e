"""How a run on Kubeflow goes: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from enginepress.run.run_state import RunState, Step

MARKS = {
    "SUCCEEDED": ("✔", "green"),
    "SKIPPED": ("-", "dim"),
    "FAILED": ("✘", "red"),
    "CANCELED": ("✘", "yellow"),
    "RUNNING": ("▸", "cyan"),
}


def poll_option(command: Any) -> Any:
    return click.option(
        "--poll", "poll_s", type=float, callback=_seconds, metavar="SECONDS", help="Between looks.  [default: 1, later 10]"
    )(command)


def _seconds(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 3600:
        raise click.BadParameter(f"{value:g} is no pause; write seconds, up to 3600")
    return value


def follow(states: Iterator[RunState]) -> RunState:
    """Shows the states as they come; returns the last one."""
    *_, last = _live(states) if sys.stderr.isatty() else _lines(states)
    return last


def tell(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def _lines(states: Iterator[RunState]) -> Iterator[RunState]:
    started, told = time.monotonic(), {}  # type: float, dict[tuple[str, int], str]
    whole = ""
    for state in states:
        if state.state != whole:
            whole = state.state
            click.echo(f"{time.monotonic() - started:7.1f} s  run {state.state.lower()}", err=True)
        seen: dict[str, int] = {}
        for step in state.steps:
            number = seen[step.name] = seen.get(step.name, 0) + 1
            if told.get((step.name, number)) != step.state:
                told[step.name, number] = step.state
                click.echo(f"{time.monotonic() - started:7.1f} s  {line_of(step)}", err=True)
        yield state


def line_of(step: Step) -> str:
    took = f"  {step.seconds:.0f} s" if step.seconds is not None else ""
    return f"{step.name:<12} {step.state.lower()}{took}" + (f"  {step.error}" if step.error else "")


def _live(states: Iterator[RunState]) -> Iterator[RunState]:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=False) as live:
        for state in states:
            live.update(table_of(state))
            yield state


def table_of(state: RunState) -> Any:
    """The steps of a run, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for step in state.steps:
        mark, style = MARKS.get(step.state, ("·", "dim"))
        took = f"{step.seconds:.0f} s" if step.seconds is not None else ""
        table.add_row(
            Text(mark, style=style), Text(step.name, style=style), Text(took, style="dim"), Text(step.error, style="red")
        )
    mark, style = MARKS.get(state.state, ("·", "dim"))
    table.add_row(Text(mark, style=style), Text(f"run {state.state.lower()}", style=f"bold {style}"), Text(""), Text(state.error))
    return table
