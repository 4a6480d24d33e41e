"""`enginepress rollout`: live Triton servers change to a release."""

from __future__ import annotations

import json
from pathlib import Path

import click

from enginepress.cli.options import Duration, given_trust, json_option, load_target, target_argument, trust_options


@click.command(short_help="Move live Triton servers to a release, without a failed request.")
@target_argument
@click.option("--channel", "-c", help="Move them to what this channel names. Default: production.")
@click.option("--release", type=click.IntRange(min=1), help="Move them to this release.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    required=True,
    help="Triton's HTTP address, http://triton-headless:8000; a name that resolves to several means all. May be repeated.",
)
@click.option("--mode", type=click.Choice(["reload", "restart"]), help="Instead of what the recipe's serving.rollout says.")
@click.option("--allow-downtime", is_flag=True, help="Restart even the only server.")
@click.option("--drain", type=Duration(), default="30s", show_default=True, help="What load balancers take to see readiness.")
@click.option("--wait", type=Duration(), default="10m", show_default=True, help="What a server's own folder may take to change.")
@click.option("--load", type=Duration(), default="10m", show_default=True, help="What a server may take to load a release.")
@click.option("--finish", type=Duration(), default="10m", show_default=True, help="What the longest answer may take.")
@trust_options
@json_option
def rollout(
    target: str,
    channel: str | None,
    release: int | None,
    servers: tuple[str, ...],
    mode: str | None,
    allow_downtime: bool,
    drain: float,
    wait: float,
    load: float,
    finish: float,
    public_key: Path | None,
    trusted_certificates: Path | None,
    as_json: bool,
) -> None:
    """Move live servers to a release of TARGET (a recipe file, or STORE/MODEL).

    The servers run with --model-control-mode=explicit on a channel of a mounted store or on a folder that `enginepress pull`
    keeps; those change first. reload: both releases are loaded, the new one answers everywhere, the old one is dropped.
    restart: one server after the other is drained, changes, and is put back.
    """
    from enginepress.errors import UsageError
    from enginepress.serving.rollout import Patience
    from enginepress.steps.pull import wanted_release
    from enginepress.steps.rollout import roll_out, server_addresses
    from enginepress.steps.signing import trust_of
    from enginepress.stores.open import open_store

    if channel is not None and release is not None:
        raise UsageError("name either a channel or a release")
    recipe = load_target(target)
    store = open_store(recipe.stores[0])
    number = release or wanted_release(store, recipe.name, channel or "production")
    done = roll_out(
        store,
        recipe.name,
        number,
        server_addresses(servers),
        mode=mode,  # type: ignore[arg-type]  # click has checked it
        allow_downtime=allow_downtime,
        trust=given_trust(public_key, trusted_certificates) or trust_of(recipe),
        patience=Patience(load=load, answer=finish, drain=drain),
        wait_s=wait,
        told=lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
        return
    for server in done.servers:
        click.echo(f"{server.server}: release {number} of {recipe.name} ({server.done}, {server.seconds:.1f} s)")
