"""`enginepress releases`: what is published, what each channel points to, what is registered."""

from __future__ import annotations

import json
import sys

import click

from enginepress.cli.options import json_option, load_target, target_argument


@click.command(short_help="List a model's releases and channels.")
@target_argument
@json_option
def releases(target: str, as_json: bool) -> None:
    """List the releases of TARGET: a recipe file, or STORE/MODEL such as file:///srv/models/tiny-llama."""
    from enginepress.steps.overview import overview

    rows = overview(load_target(target))
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    if not rows:
        click.echo("no releases yet: `enginepress run RECIPE` makes the first")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("release", "channels", "gate", "MLflow", "engine", "created", "revision"):
        # On a narrow terminal the last columns give way, not the channels.
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=len(column) if column != "revision" else None)
    for row in rows:
        table.add_row(
            str(row.release),
            ", ".join(row.channels) or "-",
            "damaged" if row.damage else "passed" if row.gated else "not gated",
            f"version {row.model_version}" if row.model_version else "not registered",
            f"{row.builder} {row.precision}",
            row.created,
            row.revision[:12],
        )
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for row in rows:
        if row.damage:
            click.echo(f"release {row.release}: {row.damage}", err=True)
