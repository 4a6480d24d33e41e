"""`enginepress cancel`: ends a run on Kubeflow."""

from __future__ import annotations

from typing import Any

import click

from enginepress.cli.cluster_options import cluster_options, connection_from


@click.command(short_help="End a run on Kubeflow.")
@click.argument("run")
@cluster_options
@click.option("--wait", is_flag=True, help="Until it has ended.")
def cancel(run: str, experiment: str, wait: bool, **values: Any) -> None:
    """End RUN: an id, a name, or the address of its page.

    What its steps have finished stays, and the next run goes on from there.

    Exit status: 0 it is cancelled, 1 it had ended by itself before.
    """
    from enginepress.errors import ClusterError
    from enginepress.run.cluster import find_run

    found = find_run(connection_from(values), run, experiment=experiment)
    state = found.cancel()
    if wait and not state.ended:
        state = found.wait()
    if state.state in ("CANCELED", "CANCELING"):
        click.echo(f"{state.state.lower()}  {found.name}  {found.url}")
        return
    raise ClusterError(f"the run had ended before: {state.state.lower()}", where=found.url, fix="nothing is left to cancel")
