"""`enginepress serve`: a real Triton on a channel."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from enginepress.cli.options import load_target, open_workspace, target_argument, workspace_option


@click.command(short_help="Serve a channel with Triton on this machine.")
@target_argument
@click.option("--channel", "-c", help="Default: the first channel that the recipe names.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True)
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="Keep Triton's output in this file.")
@workspace_option
def serve(
    target: str,
    channel: str | None,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    log: Path | None,
    workspace: str,
) -> None:
    """Serve a channel of TARGET (a recipe file, or STORE/MODEL) with Triton on this machine, until Ctrl-C.

    The server follows the channel: after a promote or rollback it loads the other release while it goes on answering. From
    a store that is no folder the releases are pulled into the workspace first.
    """
    from enginepress.scratch import scratch_folder
    from enginepress.serving.tritonserver import Ports, free_ports
    from enginepress.steps.serve import ServedChannel, channel_server, follow_channel

    recipe = load_target(target)
    name = channel or next(iter(recipe.channels), "production")

    def ports() -> Ports:
        free = free_ports()
        return Ports(http=http_port or free.http, grpc=grpc_port or free.grpc, metrics=metrics_port or free.metrics)

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with scratch_folder("serve", keep_on_error=True) as scratch:  # an error names the log
        copies = open_workspace(workspace).root / "served"
        served = ServedChannel(recipe, name, copies=copies, told=lambda line: click.echo(line, err=True))
        server = channel_server(served, log=log or scratch / "server.log", choose_ports=ports)
        click.echo(f"starting Triton on channel {name} of {recipe.name} ...", err=True)
        with server:
            click.echo(
                f"serving {recipe.name}: http://{server.http}  grpc://{server.grpc}  metrics http://{server.metrics}/metrics"
            )
            click.echo(
                f"""try:  curl -s http://{server.http}/v2/models/{recipe.name}/generate """
                """-d '{"text_input": "Hello", "max_tokens": 20}'"""
            )
            click.echo("Ctrl-C ends it", err=True)
            follow_channel(server, served, stop=stop, told=click.echo)
            click.echo("stopping ...", err=True)
