"""`enginepress restore`: makes a store, and its part of MLflow, out of a backup."""

from __future__ import annotations

import json
from functools import partial

import click

from enginepress.cli.options import json_option, open_workspace, workspace_option


@click.command(short_help="Restore a store from its backup.")
@click.argument("backup")
@click.argument("store")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--tracking-uri", help="The MLflow to register in. Default: where the releases were registered.")
@click.option("--no-registry", is_flag=True, help="Leave MLflow alone; `enginepress doctor RECIPE --repair` registers later.")
@click.option("--single-writer", is_flag=True, help="Nobody else writes to STORE at the same time: for S3 servers that need it.")
@workspace_option
@json_option
def restore(
    backup: str,
    store: str,
    models: tuple[str, ...],
    tracking_uri: str | None,
    no_registry: bool,
    single_writer: bool,
    workspace: str,
    as_json: bool,
) -> None:
    """Restore BACKUP into an empty STORE and an MLflow without these models: all, or those named.

    STORE may be a recipe file, too: its primary store.

    Numbers, manifests, signatures, channels and their histories are as they were. A restore that was killed is gone on with.
    """
    from enginepress.cli.bytes_bar import bytes_bar, many
    from enginepress.quantities import size_text
    from enginepress.recipe import Registry
    from enginepress.recipe_file import absolute_sqlite
    from enginepress.steps.restore import restore as bring_back
    from enginepress.steps.target import named_store
    from enginepress.steps.verify_store import store_bytes

    kept, target = named_store(backup), named_store(store, single_writer=single_writer)
    chosen = list(models) or None
    registry = None if no_registry else Registry(tracking_uri=absolute_sqlite(tracking_uri) if tracking_uri else None)
    with bytes_bar("restore", total=partial(store_bytes, kept, chosen), shown=not as_json) as bar:
        done = bring_back(kept, target, chosen, workspace=open_workspace(workspace), registry=registry, progress=bar.progress)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in done], indent=2))
        return
    for one in done:
        parts = [f"{many(len(one.copied), 'release')} restored ({size_text(one.bytes)})"]
        parts += [f"{len(one.there)} there already"] if one.there else []
        parts += [f"channels {', '.join(one.channels)}"] if one.channels else []
        parts += [f"{one.registered} registered"] if one.registered is not None else ["MLflow left alone"]
        click.echo(f"{one.model}: " + "; ".join(parts))
