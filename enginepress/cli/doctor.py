"""`enginepress doctor`: finds what would go wrong, and mends what can be mended."""

from __future__ import annotations

import json
import sys

import click

from enginepress.cli.options import json_option, load_target, open_workspace, workspace_option
from enginepress.cli.typed import completed, remembered


@click.command(short_help="Check this machine, the stores and the registry.")
@click.argument("target", required=False, callback=remembered)
@workspace_option
@click.option("--repair", is_flag=True, help="Mend what can be mended: registrations, aliases, channels, leftovers.")
@json_option
def doctor(target: str | None, workspace: str, repair: bool, as_json: bool) -> None:
    """Check this machine and, with TARGET (a recipe file, or STORE/MODEL), that stores, channels and MLflow agree."""
    from enginepress.steps.doctor import examine

    recipe = load_target(target) if target else None
    findings = examine(recipe, open_workspace(workspace), repair=repair)
    if as_json:
        click.echo(json.dumps([f.to_json() for f in findings], indent=2))
    else:
        for finding in findings:
            mark, color = {"ok": ("✔", "green"), "mended": ("✔", "yellow"), "warning": ("!", "yellow"), "error": ("✘", "red")}[
                finding.status
            ]
            click.echo(click.style(mark, fg=color) + f" {finding.what}: {finding.message}")
            if finding.fix:
                click.echo(f"    next: {completed(finding.fix)}")
    sys.exit(1 if any(f.status == "error" for f in findings) else 0)
