"""`enginepress submit`: builds a recipe on Kubeflow."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginepress.cli.cluster_options import cluster_options, connection_from
from enginepress.cli.compile import compile_options, options_from
from enginepress.cli.options import json_option, recipe_argument
from enginepress.cli.run_progress import poll_option

if TYPE_CHECKING:
    from enginepress.run.cluster import ClusterRun
    from enginepress.run.run_state import RunState


@click.command(short_help="Build, gate, publish and register a recipe on Kubeflow.")
@recipe_argument
@cluster_options
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the run. Repeatable.")
@click.option("--service-account", metavar="NAME", help="That the run's pods have.")
@click.option("--force", is_flag=True, help="Build and gate again even if nothing has changed. Downloads are kept.")
@click.option("--again", is_flag=True, help="Submit even if a run that builds the same is at work.")
@click.option("--no-plan", is_flag=True, help="Do not look at the source from here; the run's first step plans anyway.")
@click.option("--dry-run", is_flag=True, help="Check and plan only; print the `kfp run create` command that does the same.")
@click.option("--no-follow", is_flag=True, help="Submit and leave; `enginepress status RUN --follow` follows it later.")
@poll_option
@json_option
@compile_options
def submit(
    recipe: Path,
    experiment: str,
    settings: tuple[str, ...],
    service_account: str | None,
    force: bool,
    again: bool,
    no_plan: bool,
    dry_run: bool,
    no_follow: bool,
    poll_s: float | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Build RECIPE on Kubeflow: check and plan it, upload the pipeline, start one run, and follow it until it ends.

    Nothing is submitted twice: a run that builds the same and has not ended is followed instead. Stop following with Ctrl-C; the
    run goes on. The options from --image on are fixed when the pipeline is compiled; --set gives a run's parameters.

    Exit status: 0 the run succeeded, 1 it did not, 2 the recipe, its plan or the options are wrong.
    """
    from enginepress.cli.run_progress import tell
    from enginepress.recipe_file import load_recipe
    from enginepress.run.cluster import run_parameters
    from enginepress.run.cluster import submit as submit_run
    from enginepress.run.packages import package_of, read_value
    from enginepress.run.reach import check_image, check_plan, check_reach

    connection = connection_from(values)
    loaded, options = load_recipe(recipe), options_from(values)
    given = dict(map(setting, settings))
    check_image(options, given)
    check_reach(loaded, options)
    if not no_plan:
        check_plan(loaded, tell=lambda text: click.echo(f"note: {text}", err=True), without="submit with --no-plan")
    package = package_of("build_and_publish", options)
    parameters = {name: read_value(package, name, text) for name, text in given.items()}
    if dry_run:
        click.echo(
            _kfp_command(connection.host, experiment, loaded.name, run_parameters(package, loaded, parameters, force=force))
        )
        return
    run = submit_run(
        loaded,
        connection,
        options,
        parameters=parameters,
        experiment=experiment,
        service_account=service_account,
        force=force,
        again=again,
        package=package,
        tell=tell,
    )
    if not as_json:
        click.echo(f"{'found' if run.found else 'submitted'}  {run.name}  {run.id}\n           {run.url}")
        if run.found:
            click.echo("           it builds the same and has not ended; --again submits another one")
    if no_follow:
        if as_json:
            click.echo(json.dumps({"run": run.id, "name": run.name, "url": run.url, "found": run.found}, indent=2))
        return
    follow_to_end(run, as_json=as_json, recipe=recipe, poll_s=poll_s)


def follow_to_end(run: ClusterRun, *, as_json: bool, recipe: Path | None = None, poll_s: float | None = None) -> None:
    """Follows a run and ends the command with what came of it.

    Raises:
        ClusterError: if the run did not succeed.
    """
    from enginepress.cli.run_progress import follow, tell
    from enginepress.errors import ClusterError
    from enginepress.run.pod_logs import report_of

    options = run.api.connection.command_options()
    try:
        state = follow(run.progress(tell=tell, poll_s=poll_s))
    except KeyboardInterrupt:
        click.echo("\nthe run goes on", err=True)
        click.echo(f"  enginepress status {run.id} --follow{options}   follows it again", err=True)
        click.echo(f"  enginepress cancel {run.id}{options}   ends it", err=True)
        sys.exit(130)
    report = report_of(run, state)
    if as_json:
        click.echo(json.dumps({**state.to_json(), "url": run.url, "report": report}, indent=2))
    elif report is not None:
        click.echo(f"\n{report.strip()}\n")
    if state.good:
        if not as_json:
            click.echo(f"succeeded  {_took(state)}")
            if recipe is not None:
                click.echo(f"next:      enginepress releases {recipe}")
        return
    failed = ", ".join(dict.fromkeys(s.name for s in state.failed_steps))
    message = f"the run was cancelled {_took(state)}" if state.state == "CANCELED" else f"the run failed {_took(state)}"
    if failed:
        message += f", in {failed}"
    if state.error:
        message += f": {state.error}"
    fix = f"read what it said: `enginepress logs {run.id}{options}`"
    raise ClusterError(message, where=run.url, fix=None if state.state == "CANCELED" else fix)


def _took(state: RunState) -> str:
    if state.created is None or state.finished is None:
        return ""
    return f"after {(state.finished - state.created).total_seconds():.0f} s"


def _kfp_command(host: str, experiment: str, name: str, parameters: dict[str, Any]) -> str:
    """kfp's own command line takes what looks like JSON for what it says: a text that is JSON is written as a JSON text."""
    words = ["kfp", "--endpoint", host, "run", "create", "-e", experiment, "-r", name, "-f", "compiled/build_and_publish.yaml"]
    words += [f"{key}={json.dumps(value)}" for key, value in parameters.items()]
    return shlex.join(words)


def setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"'{text}': write NAME=VALUE", param_hint="--set")
    return name, value
