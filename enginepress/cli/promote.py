"""`enginepress promote`: moves a channel to a release."""

from __future__ import annotations

from pathlib import Path

import click

from enginepress.cli.options import given_trust, load_target, open_workspace, target_argument, trust_options, workspace_option


@click.command(short_help="Point a channel to a release.")
@target_argument
@click.argument("release", type=click.IntRange(min=1))
@click.option("--channel", "-c", required=True, help="The channel to move, e.g. production.")
@click.option("--new", is_flag=True, help="Make the channel, though its name is close to that of one that is there.")
@click.option(
    "--expect",
    type=click.IntRange(min=0),
    help="Move it only if it is on this release now; 0: on none. Default: on whatever it was when this command began.",
)
@click.option("--why", default="", help="Kept in the channel's history.")
@trust_options
@workspace_option
def promote(
    target: str,
    release: int,
    channel: str,
    new: bool,
    expect: int | None,
    why: str,
    workspace: str,
    public_key: Path | None,
    trusted_certificates: Path | None,
) -> None:
    """Point a channel of TARGET (a recipe file, or STORE/MODEL) to RELEASE.

    The channel moves in every store of the recipe, then the MLflow alias. `enginepress serve` follows by itself.
    """
    from enginepress.steps.promote import is_new_channel, move_channel, operator, where_it_is
    from enginepress.steps.register import default_tracking_uri

    recipe = load_target(target)
    trust = given_trust(public_key, trusted_certificates)
    made = is_new_channel(recipe, channel, meant=new)
    uri = default_tracking_uri(open_workspace(workspace))
    before = where_it_is(recipe, channel)
    move_channel(
        recipe,
        channel,
        release,
        who=operator(),
        why=why or "enginepress promote",
        default_uri=uri,
        expect=before if expect is None else expect or None,
        trust=trust,
    )
    was = " (a new channel)" if made else f", and was on {before}" if before not in (None, release) else ""
    click.echo(f"{recipe.name}: channel {channel} is on release {release}{was}")
