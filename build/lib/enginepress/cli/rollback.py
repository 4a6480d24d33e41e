"""`enginepress rollback`: moves a channel back."""

from __future__ import annotations

from pathlib import Path

import click

from enginepress.cli.options import given_trust, load_target, open_workspace, target_argument, trust_options, workspace_option


@click.command(short_help="Point a channel back to an earlier release.")
@target_argument
@click.option("--channel", "-c", required=True, help="The channel to move back, e.g. production.")
@click.option("--to", "release", type=click.IntRange(min=1), help="The release to go back to. Default: the one before.")
@click.option("--why", default="", help="Kept in the channel's history.")
@trust_options
@workspace_option
def rollback(
    target: str,
    channel: str,
    release: int | None,
    why: str,
    workspace: str,
    public_key: Path | None,
    trusted_certificates: Path | None,
) -> None:
    """Point a channel of TARGET (a recipe file, or STORE/MODEL) back to the release it was on before.

    Runs of the recipe do not undo a rollback: a channel moves to a release by itself only once.
    """
    from enginepress.steps.promote import operator, roll_back
    from enginepress.steps.register import default_tracking_uri

    recipe = load_target(target)
    trust = given_trust(public_key, trusted_certificates)
    uri = default_tracking_uri(open_workspace(workspace))
    number = roll_back(
        recipe, channel, to=release, who=operator(), why=why or "enginepress rollback", default_uri=uri, trust=trust
    )
    click.echo(f"{recipe.name}: channel {channel} is back on release {number}")
