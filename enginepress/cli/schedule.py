"""`enginepress schedule`: when Kubeflow looks for new checkpoints."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginepress.cli.cluster_options import cluster_options, connection_from
from enginepress.cli.compile import compile_options, options_from
from enginepress.cli.options import json_option

if TYPE_CHECKING:
    from enginepress.run.cluster import ClusterRun
    from enginepress.run.cron import Cron
    from enginepress.run.recurring import Schedule

ACTIONS = ("show", "now", "pause", "resume", "delete")


@click.command(short_help="Let Kubeflow rebuild what moved, on a schedule.")
@click.argument("place", metavar="[RECIPES]", required=False)
@cluster_options
@click.option("--cron", metavar="FIELDS", help='Six fields, seconds first: "0 */15 * * * *" is every 15 minutes.')
@click.option("--time-zone", metavar="ZONE", default="UTC", show_default=True, help="In which Kubeflow's scheduler counts.")
@click.option("--name", metavar="NAME", default="enginepress-rebuild", show_default=True, help="Of the schedule.")
@click.option("--list", "show", is_flag=True, help="List the schedules.")
@click.option("--now", is_flag=True, help="Start one run of it now.")
@click.option("--retry-failed", is_flag=True, help="With --now: also build what failed before and is held back.")
@click.option("--pause", is_flag=True, help="Start nothing until it is resumed.")
@click.option("--resume", is_flag=True, help="Go on with the next time.")
@click.option("--delete", is_flag=True, help="Remove it. A run that is at work goes on.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of its runs. Repeatable.")
@click.option("--service-account", metavar="NAME", help="That its runs' pods have.")
@json_option
@compile_options
def schedule(
    place: str | None,
    experiment: str,
    cron: str | None,
    time_zone: str,
    name: str,
    retry_failed: bool,
    settings: tuple[str, ...],
    service_account: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Rebuild what moved among RECIPES, the name of the ConfigMap (or, with --recipes pvc, of the volume) that holds them.

    The same command creates the schedule, changes it, or finds that it is right. Times that pass while Kubeflow is down or the
    schedule is paused are not made up for, and one run ends before the next one starts. Builds go to the channel `candidate`.
    """
    from enginepress.errors import UsageError
    from enginepress.run.api import Api
    from enginepress.run.cluster import open_place
    from enginepress.run.cron import parse_cron, zone

    chosen = [action for action in ACTIONS if values.pop(action)]
    if len(chosen) + (cron is not None) != 1:
        raise UsageError("what is to be done?", fix="give RECIPES --cron FIELDS, or --list, --now, --pause, --resume or --delete")
    if retry_failed and chosen != ["now"]:
        raise UsageError(
            "--retry-failed is for one run, not for a schedule, which would build what fails each time",
            fix="make the schedule without it; then `enginepress schedule --now --retry-failed`",
        )
    if chosen and place is not None:
        raise UsageError(
            f"'{place}' is named, and --{'list' if chosen == ['show'] else chosen[0]} does not ask for recipes",
            where="RECIPES",
            fix="leave it out; which schedule is meant says --name NAME",
        )
    connection = connection_from(values)
    if not chosen:
        if place is None:
            raise UsageError("which recipes?", fix="name the ConfigMap that holds them: enginepress schedule NAME --cron …")
        _check_place(place)
        _create(
            place,
            parse_cron(str(cron)),
            zone(time_zone),
            connection,
            experiment,
            name,
            settings,
            service_account,
            as_json,
            values,
        )
        return
    from enginepress.cli.run_progress import tell
    from enginepress.run import recurring

    recurring.check_schedule_name(name)
    where = open_place(Api(connection, tell=tell), experiment, create=False)
    if chosen == ["show"]:
        _list(recurring.schedules(where), as_json=as_json, experiment=experiment)
        return
    one = recurring.schedule_named(where, name)
    if chosen == ["now"]:
        _tell_started(recurring.start_now(where, one, retry_failed=retry_failed), as_json=as_json)
        return
    action = {"pause": recurring.pause_schedule, "resume": recurring.resume_schedule, "delete": recurring.delete_schedule}
    action[chosen[0]](where, one)
    done = {"pause": "paused", "resume": "resumed", "delete": "deleted"}[chosen[0]]
    click.echo(json.dumps({**one.to_json(), "done": done}, indent=2) if as_json else f"{done}  {name}  {one.cron}")


def _create(
    place: str,
    cron: Cron,
    time_zone: datetime.tzinfo,
    connection: Any,
    experiment: str,
    name: str,
    settings: tuple[str, ...],
    service_account: str | None,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    from enginepress.cli.run_progress import tell
    from enginepress.cli.submit import setting
    from enginepress.run.api import Api
    from enginepress.run.cluster import open_place
    from enginepress.run.cron import next_times
    from enginepress.run.packages import package_of, read_value
    from enginepress.run.parameters import check_given, check_name
    from enginepress.run.reach import check_image
    from enginepress.run.recurring import check_schedule_name, set_schedule

    options, given = options_from(values), dict(map(setting, settings))
    check_schedule_name(name)
    check_name(place, "a ConfigMap or volume", where="RECIPES")
    check_image(options, given)
    package = package_of("rebuild_on_new_checkpoints", options)
    parameters = {key: read_value(package, key, text) for key, text in given.items()}
    check_given(package, parameters, own=("recipes",))
    where = open_place(Api(connection, tell=tell), experiment)
    one, change = set_schedule(where, package, cron, place, name=name, parameters=parameters, service_account=service_account)
    times = next_times(cron, datetime.datetime.now(time_zone))
    if as_json:
        said = {**one.to_json(), "change": change, "time_zone": str(time_zone), "next": [t.isoformat() for t in times]}
        click.echo(json.dumps(said, indent=2))
        return
    click.echo(f"{change:<9}  {one.name}  {one.cron}  recipes of {one.recipes}")
    for time in times:
        local = time.astimezone()
        here = "" if local.utcoffset() == time.utcoffset() else f"  (here {local:%Y-%m-%d %H:%M:%S})"
        click.echo(f"           {time:%a %Y-%m-%d %H:%M:%S} {time_zone}{here}")
    click.echo(
        f"           if Kubeflow's scheduler counts in {time_zone}: its CRON_SCHEDULE_TIMEZONE says, and UTC is its default"
    )


def _tell_started(run: ClusterRun, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"run": run.id, "name": run.name, "url": run.url, "found": run.found}, indent=2))
        return
    click.echo(f"{'found' if run.found else 'started'}  {run.name}  {run.id}\n         {run.url}")
    click.echo(f"         enginepress status {run.id} --follow{run.api.connection.command_options()}")


def _list(found: list[Schedule], *, as_json: bool, experiment: str) -> None:
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    if not found:
        click.echo(f"no schedules in the experiment '{experiment}' yet")
    for one in found:
        click.echo(f"{'paused' if one.paused else 'active'}  {one.name}  {one.cron}  recipes of {one.recipes}")


def _check_place(place: str) -> None:
    """A folder of this machine is not what a cluster looks at."""
    from enginepress.errors import UsageError

    if "/" in place or (place and Path(place).exists()) or place.endswith((".yaml", ".yml")):
        raise UsageError(
            f"'{place}' is on this machine; Kubeflow looks at a ConfigMap or a volume",
            where="RECIPES",
            fix=f"`kubectl create configmap enginepress-recipes --from-file={place}`, and name that ConfigMap here",
        )
