"""`enginepress status`: how runs on Kubeflow stand."""

from __future__ import annotations

import json
from typing import Any

import click

from enginepress.cli.cluster_options import cluster_options, connection_from
from enginepress.cli.options import json_option
from enginepress.cli.run_progress import poll_option


@click.command(short_help="Tell how a run on Kubeflow stands, or list the newest.")
@click.argument("run", required=False)
@cluster_options
@click.option("--follow", "-f", is_flag=True, help="Follow the run until it ends.")
@poll_option
@json_option
def status(run: str | None, experiment: str, follow: bool, poll_s: float | None, as_json: bool, **values: Any) -> None:
    """Tell how RUN stands: an id, a name, or the address of its page. Without RUN, list the newest runs.

    With --follow the exit status is the run's: 0 it succeeded, 1 it did not.
    """
    from enginepress.cli.run_progress import line_of
    from enginepress.cli.submit import follow_to_end
    from enginepress.run.cluster import find_run, list_runs

    connection = connection_from(values)
    if run is None:
        states = list_runs(connection, experiment=experiment)
        if as_json:
            click.echo(json.dumps([state.to_json() for state in states], indent=2))
        elif not states:
            click.echo(f"no runs in the experiment '{experiment}' yet")
        for state in () if as_json else states:
            created = f"{state.created:%Y-%m-%d %H:%M}" if state.created is not None else "-" * 16
            click.echo(f"{state.state.lower():<10} {created} {state.id}  {state.name}")
        return
    found = find_run(connection, run, experiment=experiment)
    if follow:
        follow_to_end(found, as_json=as_json, poll_s=poll_s)
        return
    state = found.state()
    if as_json:
        click.echo(json.dumps({**state.to_json(), "url": found.url}, indent=2))
        return
    click.echo(f"{state.state.lower()}  {state.name}  {found.url}")
    for step in state.steps:
        click.echo(f"  {line_of(step)}")
    if state.error:
        click.echo(f"  {state.error}")
