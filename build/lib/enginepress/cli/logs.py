"""`enginepress logs`: what the steps of a run on Kubeflow have printed."""

from __future__ import annotations

from typing import Any

import click

from enginepress.cli.cluster_options import cluster_options, connection_from


@click.command(short_help="Show what the steps of a run on Kubeflow have printed.")
@click.argument("run")
@click.argument("steps", nargs=-1)
@cluster_options
@click.option("--all", "every", is_flag=True, help="All steps that have started.")
def logs(run: str, steps: tuple[str, ...], experiment: str, every: bool, **values: Any) -> None:
    """Show the logs of STEPS of RUN; without STEPS, of what failed, else of what is running.

    Kubeflow has a log as long as the step's pod is there, or for longer if it archives logs. What it does not have, `kubectl`
    may: the command is printed. Exit status: 1 if there is no log at all.
    """
    from enginepress.errors import ClusterError
    from enginepress.run.cluster import find_run
    from enginepress.run.pod_logs import chosen_steps, kubectl, log_of

    found = find_run(connection_from(values), run, experiment=experiment)
    state = found.state()
    chosen = list(state.steps) if every else chosen_steps(state, steps)
    if not chosen:
        raise ClusterError(f"no step has started; the run is {state.state.lower()}", where=found.url, fix=kubectl(found))
    missing = []
    for step in chosen:
        text = log_of(found, step)
        if len(chosen) > 1 or text is None:
            click.echo(click.style(f"== {step.name} ({step.state.lower()})", bold=True), err=True)
        if text is None:
            missing.append(step)
            continue
        click.echo(text, nl=not text.endswith("\n"))
    if missing:
        names = ", ".join(dict.fromkeys(s.name for s in missing))
        message = f"Kubeflow has no log of {names}: the pod is gone, or has not started"
        if len(missing) == len(chosen):
            raise ClusterError(message, where=found.url, fix=f"with access to the cluster: {kubectl(found)}")
        click.echo(f"note: {message}; with access to the cluster: {kubectl(found)}", err=True)
