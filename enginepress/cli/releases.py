"""`enginepress releases`: what is published, what each channel points to, what is registered."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import json_option, load_target, target_argument
from enginepress.cli.typed import completed

if TYPE_CHECKING:
    from enginepress.steps.overview import MoveRow


@click.command(short_help="List a model's releases and channels.")
@target_argument
@click.option("--newest", type=click.IntRange(min=1), metavar="N", help="List the newest N.  [default: 10; with --json: all]")
@click.option("--all", "every", is_flag=True, help="List all.")
@click.option("--history", is_flag=True, help="Every move of every channel instead: when, from where to where, who, why.")
@json_option
def releases(target: str, newest: int | None, every: bool, history: bool, as_json: bool) -> None:
    """List the newest releases, and those on channels, of TARGET: a recipe file, or STORE/MODEL such as
    file:///srv/models/tiny-llama."""
    from enginepress.steps.overview import SHOWN, moves, overview

    recipe = load_target(target)
    if history:
        _print_history(moves(recipe), as_json)
        return
    limit = newest or (None if every or as_json else SHOWN)
    rows = overview(recipe, newest=limit)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    if not rows:
        click.echo(completed("no releases yet: `enginepress run RECIPE` makes the first"))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    gates = ["damaged" if row.damage else "passed" if row.gated else "not gated" for row in rows]
    least = {"revision": None, "gate": max(map(len, gates))}  # on a narrow terminal the gate's word stays whole
    several = any(len(row.stores) > 1 for row in rows) or len(recipe.stores) > 1
    signed = any(row.signature not in ("", "unsigned") for row in rows)
    more = [*(["signed"] if signed else []), *(["stores"] if several else [])]
    for column in ("release", "channels", "gate", "MLflow", *more, "engine", "created", "revision"):
        # On a narrow terminal the last columns give way, not the channels.
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least.get(column, len(column)))
    for row, gate in zip(rows, gates, strict=True):
        table.add_row(
            str(row.release),
            ", ".join(row.channels) or "-",
            gate,
            f"version {row.model_version}" if row.model_version else "not registered",
            *([_SIGNED.get(row.signature, "-")] if signed else []),
            *([f"{len(row.stores)} of {len(recipe.stores)}"] if several else []),
            f"{row.builder} {row.precision}",
            row.created,
            row.revision[:12],
        )
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if limit is not None and len(rows) >= limit and rows[0].release > 1:
        click.echo(f"these are the newest {limit} and those on channels; --all lists all")
    for row in rows:
        if row.signature == "bad":
            click.echo(f"release {row.release}: its signature is bad: `enginepress verify {target}` says why", err=True)
        if row.damage:
            click.echo(f"release {row.release}: {row.damage}", err=True)


_SIGNED = {"unsigned": "no", "unchecked": "not checked", "good": "yes", "bad": "BAD"}


def _print_history(rows: list[MoveRow], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    if not rows:
        click.echo("no channel has moved yet")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("when", "channel", "from", "to", "who", "why"):
        table.add_column(column, overflow="fold" if column == "why" else "ellipsis", no_wrap=column != "why")
    for row in rows:
        to = f"{row.release} (back)" if row.back else str(row.release)
        table.add_row(row.at, row.channel, str(row.previous or "-"), to, escape(row.who), escape(row.why))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
