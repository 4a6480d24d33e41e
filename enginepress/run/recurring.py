"""The schedule on which Kubeflow looks for new checkpoints: one recurring run of rebuild_on_new_checkpoints.

Kubeflow has no way to change a recurring run. A changed schedule is a new one beside the old: the old one is paused, the new one
is made, the old one is deleted. Wherever that is cut off, no two of them ever run, and the same command ends it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kfp_server_api import models

from enginepress.errors import ClusterError, UsageError
from enginepress.run.cluster import ClusterRun, Place, create_run_once, first_running, named, upload
from enginepress.run.cron import Cron
from enginepress.run.packages import Package
from enginepress.run.parameters import check_given, check_name

NAME = "enginepress-rebuild"
LONGEST_NAME = 100
Change = Literal["created", "changed", "unchanged"]


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
        cron: six fields, or what else Kubeflow was told.
        recipes: the ConfigMap or volume that it looks at.
    """

    id: str
    name: str
    cron: str
    paused: bool
    recipes: str
    pipeline_id: str
    version_id: str
    no_catchup: bool
    at_once: int
    parameters: Mapping[str, Any]
    service_account: str

    def to_json(self) -> dict[str, Any]:
        return {
            "schedule": self.id,
            "name": self.name,
            "cron": self.cron,
            "paused": self.paused,
            "recipes": self.recipes,
            "catches_up": not self.no_catchup,
            "at_once": self.at_once,
            "parameters": dict(self.parameters),
        }


def set_schedule(
    place: Place,
    package: Package,
    cron: Cron,
    recipes: str,
    *,
    name: str = NAME,
    parameters: Mapping[str, Any] | None = None,
    service_account: str | None = None,
) -> tuple[Schedule, Change]:
    """Makes the schedule of this name be so: no catching up, one run at a time. A paused one is resumed.

    Args:
        service_account: of its runs; None for whichever Kubeflow takes by itself.

    Raises:
        UsageError: for names that cannot be, and parameters that the pipeline does not have or that cannot be.
        ClusterError: if Kubeflow cannot be reached, or refuses.
    """
    api = place.api
    check_schedule_name(name)
    check_name(recipes, "a ConfigMap or volume", where="RECIPES")
    check_given(package, parameters or {}, own=("recipes",))
    values = {"recipes": recipes, **(parameters or {})}
    reference = upload(place, package)
    wanted = (cron.text, reference.pipeline_version_id, True, 1, values)

    def right(one: Schedule) -> bool:
        # Where none is asked for, Kubeflow names the one that it takes by itself.
        account = service_account is None or one.service_account == service_account
        return account and (one.cron, one.version_id, one.no_catchup, one.at_once, dict(one.parameters)) == wanted

    there = schedules(place, name)
    kept = next((one for one in there if right(one)), None)
    rest = [one for one in there if one is not kept]
    for one in rest:
        if not one.paused:
            _set_paused(place, one, paused=True)
    if kept is None:
        body = models.V2beta1RecurringRun(
            display_name=name,
            description=f"Rebuilds what moved among the recipes of {recipes}; made with enginepress",
            experiment_id=place.experiment_id,
            namespace=place.namespace,
            pipeline_version_reference=reference,
            runtime_config=models.V2beta1RuntimeConfig(parameters=values),
            trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=cron.text)),
            max_concurrency=1,
            no_catchup=True,
            mode=models.RecurringRunMode.ENABLE,
            service_account=service_account,
        )
        _, lost = api.once(
            "create the schedule",
            api.recurring.recurring_run_service_create_recurring_run,
            body,
            find=lambda: next((one for one in schedules(place, name) if right(one)), None),
        )
        made = [one for one in schedules(place, name) if right(one)]
        if not made:
            raise ClusterError(
                "the schedule was made, and is not there", where=api.connection.host, fix="run the same command again"
            )
        kept, doubles = made[0], made[1:] if lost else []
        rest += doubles
        change: Change = "changed" if there else "created"
    else:
        if kept.paused:
            _set_paused(place, kept, paused=False)
        change = "changed" if rest or kept.paused else "unchanged"
    for one in rest:
        delete_schedule(place, one)
    return kept, change


def schedules(place: Place, name: str | None = None) -> list[Schedule]:
    """The recurring runs of the experiment, of this name if one is given; the oldest first."""
    if not place.experiment_id:
        return []
    found: list[Schedule] = []
    token = ""
    while True:
        listed = place.api.call(
            "list the schedules",
            place.api.recurring.recurring_run_service_list_recurring_runs,
            experiment_id=place.experiment_id,
            page_size=100,
            page_token=token,
            sort_by="created_at asc",
            **({"filter": named(name)} if name is not None else {}),
        )
        found += [_read(one) for one in listed.recurring_runs or ()]
        if not listed.next_page_token or listed.next_page_token == token:  # a page that names itself would never end
            return found
        token = listed.next_page_token


def check_schedule_name(name: str) -> None:
    """Raises UsageError for a name by which no schedule could be found again."""
    if not name.strip() or len(name) > LONGEST_NAME:
        raise UsageError(f"a schedule's name has 1 to {LONGEST_NAME} letters", where="--name", fix="as enginepress-rebuild")


def schedule_named(place: Place, name: str) -> Schedule:
    """The schedule of this name.

    Raises:
        UsageError: if no schedule can have it.
        ClusterError: if there is none.
    """
    check_schedule_name(name)
    found = schedules(place, name)
    if not found:
        raise ClusterError(
            f"there is no schedule '{name}'", where=place.api.connection.host, fix="`enginepress schedule --list` lists them"
        )
    return found[-1]


def pause_schedule(place: Place, one: Schedule) -> None:
    _set_paused(place, one, paused=True)


def resume_schedule(place: Place, one: Schedule) -> None:
    _set_paused(place, one, paused=False)


def start_now(place: Place, one: Schedule, *, retry_failed: bool = False) -> ClusterRun:
    """One run of a schedule besides those at its times, paused or not. One that was started so and is at work is found instead.

    Args:
        retry_failed: it also builds what failed before and is held back.

    Raises:
        ClusterError: if Kubeflow cannot be reached, or refuses.
    """
    connection = place.api.connection
    prefix = f"{one.name}-{'retry' if retry_failed else 'now'}-"
    if (running := first_running(place, prefix)) is not None:
        return ClusterRun(place.api, running.run_id, running.display_name, connection.run_url(running.run_id), found=True)
    body = models.V2beta1Run(
        experiment_id=place.experiment_id,
        display_name=prefix + secrets.token_hex(4),
        description=f"A run of the schedule {one.name}, started with enginepress",
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=one.pipeline_id, pipeline_version_id=one.version_id
        ),
        runtime_config=models.V2beta1RuntimeConfig(
            parameters={**one.parameters, **({"retry_failed": True} if retry_failed else {})}
        ),
        service_account=one.service_account or None,
    )
    run = create_run_once(place, body)
    return ClusterRun(place.api, run.run_id, body.display_name, connection.run_url(run.run_id))


def delete_schedule(place: Place, one: Schedule) -> None:
    """Deletes a schedule. A run of it that is at work goes on."""
    api = place.api
    try:
        api.call(f"delete the schedule {one.name}", api.recurring.recurring_run_service_delete_recurring_run, one.id)
    except ClusterError:
        if any(other.id == one.id for other in schedules(place, one.name)):
            raise  # else an answer was lost, and the second request found nothing


def _set_paused(place: Place, one: Schedule, *, paused: bool) -> None:
    service = place.api.recurring
    method = service.recurring_run_service_disable_recurring_run if paused else service.recurring_run_service_enable_recurring_run
    place.api.call(f"{'pause' if paused else 'resume'} the schedule {one.name}", method, one.id)


def _read(run: Any) -> Schedule:
    trigger = run.trigger
    cron = trigger.cron_schedule.cron if trigger is not None and trigger.cron_schedule is not None else ""
    if not cron and trigger is not None and trigger.periodic_schedule is not None:
        cron = f"every {trigger.periodic_schedule.interval_second} s"
    parameters = (run.runtime_config.parameters if run.runtime_config is not None else None) or {}
    reference = run.pipeline_version_reference
    return Schedule(
        id=str(run.recurring_run_id),
        name=str(run.display_name),
        cron=str(cron),
        # No status is known at first, nor when its last run failed to start.
        paused=run.status == "DISABLED",
        recipes=str(parameters.get("recipes", "")),
        pipeline_id=str(reference.pipeline_id) if reference is not None else "",
        version_id=str(reference.pipeline_version_id) if reference is not None else "",
        no_catchup=bool(run.no_catchup),
        at_once=int(run.max_concurrency or 0),
        parameters=parameters,
        service_account=str(run.service_account or ""),
    )
