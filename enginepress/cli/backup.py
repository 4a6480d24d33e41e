"""`enginepress backup`: keeps a store's releases, channels, histories and registry entries in another place."""

from __future__ import annotations

import json
from functools import partial

import click

from enginepress.cli.options import json_option, open_workspace, workspace_option


@click.command(short_help="Back a store up into another place.")
@click.argument("store")
@click.argument("target")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--no-registry", is_flag=True, help="Leave out what people wrote into MLflow: tags, descriptions, aliases.")
@click.option("--prune", is_flag=True, help="Remove releases from the backup that the store has no more.")
@click.option("--single-writer", is_flag=True, help="Nobody else writes to TARGET at the same time: for S3 servers that need it.")
@workspace_option
@json_option
def backup(
    store: str,
    target: str,
    models: tuple[str, ...],
    no_registry: bool,
    prune: bool,
    single_writer: bool,
    workspace: str,
    as_json: bool,
) -> None:
    """Bring the backup of STORE in TARGET up to date: all models, or those named.

    STORE may be a recipe file: its primary store, with the endpoint that it has there.

    What is there is not copied again, and a backup that was killed is gone on with. TARGET holds nothing else. Look at it with
    `enginepress verify TARGET --deep`.
    """
    from enginepress.cli.bytes_bar import bytes_bar, many
    from enginepress.quantities import size_text
    from enginepress.steps.backup import backup as back_up
    from enginepress.steps.target import named_store
    from enginepress.steps.verify_store import store_bytes

    source, kept = named_store(store), named_store(target, single_writer=single_writer)
    chosen = list(models) or None
    with bytes_bar("backup", total=partial(store_bytes, source, chosen), shown=not as_json) as bar:
        done = back_up(
            source,
            kept,
            chosen,
            workspace=open_workspace(workspace),
            registry=not no_registry,
            prune=prune,
            progress=bar.progress,
        )
    if as_json:
        click.echo(json.dumps([one.to_json() for one in done], indent=2))
        return
    for one in done:
        parts = [f"{many(len(one.copied), 'release')} copied ({size_text(one.bytes)})", f"{len(one.there)} there already"]
        parts += [f"channels {', '.join(one.channels)}"] if one.channels else []
        parts += [many(one.registered, "registered version")] if one.registered is not None else []
        click.echo(f"{one.model}: " + "; ".join(parts))
        if one.left:
            numbers = ", ".join(map(str, one.left))
            click.echo(f"  the store has no more of {numbers}: kept here, and not restored; --prune removes them")
        if one.removed:
            click.echo(f"  removed here, as in the store: {', '.join(map(str, one.removed))}")
