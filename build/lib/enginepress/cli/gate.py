"""`enginepress gate`: asks the recipe's questions of a build or a release, without publishing anything."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from enginepress.cli.options import json_option, open_workspace, recipe_argument, workspace_option


@click.command(short_help="Gate a build or a release anew.")
@recipe_argument
@workspace_option
@click.option("--release", type=click.IntRange(min=1), help="Gate this release. Default: what the recipe builds now.")
@json_option
def gate(recipe: Path, workspace: str, release: int | None, as_json: bool) -> None:
    """Serve what RECIPE built with the real Triton and hold it against RECIPE's checks, anew.

    Nothing is built or published. The report is kept in the workspace.
    """
    import json

    from enginepress.recipe_file import load_recipe
    from enginepress.steps.gate import gate_now

    loaded = load_recipe(recipe)
    outcome = gate_now(loaded, open_workspace(workspace), release=release)
    if as_json:
        click.echo(json.dumps(outcome.report.to_json(), indent=2))
    else:
        from enginepress.cli.summary import print_gate

        print_gate(outcome.report)
        click.echo(f"report: {outcome.folder / 'report.html'}")
    sys.exit(0 if outcome.report.passed else 1)
