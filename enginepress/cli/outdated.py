"""`enginepress outdated`: which recipes' sources have moved since they were locked or built."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from enginepress.cli.options import json_option, open_workspace, workspace_option


@click.command(short_help="Tell which recipes' sources have moved since they were locked or built.")
@click.argument("recipes", nargs=-1, type=click.Path(path_type=Path))
@workspace_option
@json_option
def outdated(recipes: tuple[Path, ...], workspace: str, as_json: bool) -> None:
    """Compare what the sources of RECIPES are now with their locks, or else with their newest releases.

    RECIPES are files, or folders, which are searched with all folders in them; without any, the current folder. Nothing is
    downloaded: one small request a source. Ends with 1 if a source could not be asked.
    """
    from enginepress.steps.outdated import outdated as ask
    from enginepress.steps.recipe_folder import find_recipes

    states = ask(find_recipes(recipes or (Path(),)), open_workspace(workspace).path("cache"))
    if as_json:
        click.echo(json.dumps([state.to_json() for state in states], indent=2))
    elif not states:
        click.echo("no recipes here: name recipe files, or folders that hold some")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("recipe", "status", "since", "known", "now", "source"):
            # On a narrow terminal names and addresses are broken into lines; what one looks for, the status, stays whole.
            table.add_column(column, no_wrap=column not in ("recipe", "source"), overflow="fold")
        for s in states:
            now = s.latest[:12] + (f" ({s.note})" if s.note else "")
            table.add_row(s.recipe, s.status, s.since or "-", s.known[:12] or "-", now or "-", s.uri)
        # A pipe has no width: nothing is cut there.
        Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False).print(table)
    failed = [s for s in states if s.status == "failed"]
    for s in failed:
        told = s.error if s.error.startswith(f"{s.recipe}: ") else f"{s.recipe}: {s.error}"
        click.echo(told + (f"\n  next: {s.fix}" if s.fix else ""), err=True)
    if failed:
        sys.exit(1)
