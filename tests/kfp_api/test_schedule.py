"""The schedule of rebuilds: made once, changed without two of them ever running, paused, resumed, deleted."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from enginepress.compile_options import CompileOptions
from enginepress.errors import ClusterError, UsageError
from enginepress.run.api import Api
from enginepress.run.cluster import Place, open_place
from enginepress.run.cron import parse_cron
from enginepress.run.packages import Package, package_of
from enginepress.run.recurring import (
    NAME,
    Schedule,
    delete_schedule,
    pause_schedule,
    resume_schedule,
    schedule_named,
    schedules,
    set_schedule,
    start_now,
)
from tests.kfp_api.server import Fault, KfpApi

CRON = parse_cron("0 */15 * * * *")


@pytest.fixture(scope="session")
def rebuild(options: CompileOptions, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package_of("rebuild_on_new_checkpoints", options, cache=tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def place(quick: Api) -> Place:
    return open_place(quick, "enginepress")


def _set(place: Place, rebuild: Package, **options: Any) -> tuple[Schedule, str]:
    return set_schedule(place, rebuild, options.pop("cron", CRON), options.pop("recipes", "enginepress-recipes"), **options)


def test_a_schedule_does_not_catch_up_and_runs_one_at_a_time(kfp_api: KfpApi, place: Place, rebuild: Package) -> None:
    one, change = _set(place, rebuild)
    (made,) = kfp_api.backend.recurring.values()
    assert change == "created"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 */15 * * * *"}}
    assert (made["no_catchup"], made["max_concurrency"], made["mode"]) == (True, "1", "ENABLE")
    assert made["runtime_config"]["parameters"] == {"recipes": "enginepress-recipes"}
    assert one == schedule_named(place, NAME)


def test_the_same_command_again_changes_nothing(kfp_api: KfpApi, place: Place, rebuild: Package) -> None:
    first, _ = _set(place, rebuild)
    sent = len([r for r in kfp_api.requests if r.method != "GET"])
    assert _set(place, rebuild) == (first, "unchanged")
    assert len([r for r in kfp_api.requests if r.method != "GET"]) == sent


def test_the_service_account_that_kubeflow_fills_in_is_no_change(kfp_api: KfpApi, place: Place, rebuild: Package) -> None:
    """Its answer names the installation's own where none was asked for."""
    first, change = _set(place, rebuild)
    assert (first.service_account, change) == ("pipeline-runner", "created")
    assert _set(place, rebuild) == (first, "unchanged")
    named, change = _set(place, rebuild, service_account="enginepress-pipeline")
    assert (named.service_account, change) == ("enginepress-pipeline", "changed")


def test_a_schedule_of_which_kubeflow_has_not_reported_yet_is_not_paused(place: Place, rebuild: Package) -> None:
    one, _ = _set(place, rebuild)
    assert not one.paused
    assert not schedule_named(place, NAME).paused


@pytest.mark.parametrize(
    "change",
    [{"cron": parse_cron("@daily")}, {"recipes": "others"}, {"parameters": {"store_pvc": "big"}}, {"service_account": "builder"}],
    ids=str,
)
def test_a_change_replaces_it_and_the_old_one_is_paused_before_the_new_one_exists(
    kfp_api: KfpApi, place: Place, rebuild: Package, change: dict[str, Any]
) -> None:
    old, _ = _set(place, rebuild)
    kfp_api.requests.clear()
    new, said = _set(place, rebuild, **change)
    assert (said, new.id != old.id) == ("changed", True)
    assert list(kfp_api.backend.recurring) == [new.id]
    sent = [(r.method, r.path.rpartition("/")[2].rpartition(":")[2]) for r in kfp_api.requests if r.method != "GET"]
    assert sent == [("POST", "disable"), ("POST", "recurringruns"), ("DELETE", old.id)]


@pytest.mark.parametrize("where", [("POST", ":disable"), ("POST", "/recurringruns"), ("DELETE", "/recurringruns/")], ids=str)
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
def test_a_change_that_is_cut_off_never_leaves_two_that_run_and_is_ended_by_the_same_command(
    kfp_api: KfpApi, quick: Api, place: Place, rebuild: Package, where: tuple[str, str], after: bool
) -> None:
    _set(place, rebuild)
    impatient = Place(Api(quick.connection, pauses=(), looks=()), place.namespace, place.experiment_id)
    kfp_api.faults = [Fault(*where, status=503, after=after, times=9)]
    with contextlib.suppress(ClusterError):  # a deletion that took effect is none, although its answer was lost
        _set(impatient, rebuild, cron=parse_cron("@hourly"))
    assert kfp_api.faults[0].times < 9
    kfp_api.faults = []
    assert len([r for r in kfp_api.backend.recurring.values() if r["mode"] == "ENABLE"]) <= 1
    one, _ = _set(place, rebuild, cron=parse_cron("@hourly"))
    assert [(r["recurring_run_id"], r["mode"]) for r in kfp_api.backend.recurring.values()] == [(one.id, "ENABLE")]


@pytest.mark.parametrize("status", [0, 500, 503])
def test_an_answer_that_is_lost_makes_no_second_schedule(kfp_api: KfpApi, place: Place, rebuild: Package, status: int) -> None:
    kfp_api.faults = [
        Fault("POST", "/recurringruns", status=status, after=True),
        Fault("POST", "/upload_version", status=status, after=True),
    ]
    one, change = _set(place, rebuild)
    assert change == "created"
    assert list(kfp_api.backend.recurring) == [one.id]


def test_it_is_paused_resumed_and_deleted(kfp_api: KfpApi, place: Place, rebuild: Package) -> None:
    one, _ = _set(place, rebuild)
    pause_schedule(place, one)
    assert schedule_named(place, NAME).paused
    resume_schedule(place, one)
    assert not schedule_named(place, NAME).paused
    pause_schedule(place, one)
    assert _set(place, rebuild)[1] == "changed"  # naming it again resumes it
    assert not schedule_named(place, NAME).paused
    kfp_api.faults = [Fault("DELETE", "/recurringruns/", status=502, after=True)]
    delete_schedule(place, one)
    assert schedules(place) == []
    with pytest.raises(ClusterError, match="there is no schedule 'enginepress-rebuild'"):
        schedule_named(place, NAME)


def test_a_run_of_it_is_started_now_with_what_the_schedule_has_and_never_twice(
    kfp_api: KfpApi, quick: Api, place: Place, rebuild: Package
) -> None:
    one, _ = _set(place, rebuild, parameters={"store_pvc": "big"}, service_account="builder")
    pause_schedule(place, one)
    kfp_api.backend.script.stands = True
    kfp_api.faults = [Fault("POST", "/runs", status=503, after=True)]
    run = start_now(place, schedule_named(place, NAME))
    (made,) = (r.answer for r in kfp_api.backend.runs.values())
    assert (made["run_id"], made["service_account"]) == (run.id, "builder")
    assert made["pipeline_version_reference"]["pipeline_version_id"] == one.version_id
    assert made["runtime_config"]["parameters"] == {"recipes": "enginepress-recipes", "store_pvc": "big"}
    assert run.name.startswith(f"{NAME}-now-")
    again = start_now(place, one)
    assert (again.id, again.found) == (run.id, True)
    other = start_now(place, one, retry_failed=True)
    assert not other.found
    assert kfp_api.backend.runs[other.id].answer["runtime_config"]["parameters"]["retry_failed"] is True
    assert schedule_named(place, NAME).parameters == one.parameters, "the schedule itself does not"
    kfp_api.backend.script.stands = False
    assert run.wait(poll_s=0).state == "SUCCEEDED"
    assert start_now(place, one).id != run.id


@pytest.mark.parametrize("name", ["", " ", "x" * 101])
def test_a_name_that_is_none_touches_no_schedule(kfp_api: KfpApi, place: Place, rebuild: Package, name: str) -> None:
    """An empty name must not stand for all of them."""
    one, _ = _set(place, rebuild)
    with pytest.raises(UsageError, match="1 to 100 letters"):
        _set(place, rebuild, name=name)
    with pytest.raises(UsageError, match="1 to 100 letters"):
        schedule_named(place, name)
    assert schedules(place, "") == []
    assert [(r["recurring_run_id"], r["mode"]) for r in kfp_api.backend.recurring.values()] == [(one.id, "ENABLE")]


def test_two_names_are_two_schedules(place: Place, rebuild: Package) -> None:
    _set(place, rebuild)
    _set(place, rebuild, name="nightly", cron=parse_cron("@daily"))
    assert [(s.name, s.cron) for s in schedules(place)] == [(NAME, "0 */15 * * * *"), ("nightly", "0 0 0 * * *")]


def test_a_parameter_that_the_pipeline_does_not_have_is_refused_before_anything_is_sent(
    kfp_api: KfpApi, place: Place, rebuild: Package
) -> None:
    sent = len(kfp_api.requests)
    with pytest.raises(UsageError, match="'nonsense' is no parameter"):
        _set(place, rebuild, parameters={"nonsense": 1})
    assert len(kfp_api.requests) == sent
