"""Following, cancelling and reading the logs of a run."""

from __future__ import annotations

import pytest

from enginepress.errors import ClusterError
from enginepress.run.api import Api
from enginepress.run.pod_logs import chosen_steps, log_of
from enginepress.run.run_state import RunState
from enginepress.steps import STEPS
from tests.kfp_api.conftest import Submit
from tests.kfp_api.server import Fault, KfpApi


def test_a_run_is_followed_step_by_step_to_its_end(kfp_api: KfpApi, send: Submit) -> None:
    states = list(send().progress(poll_s=0))
    assert [s.state for s in states][:2] == ["RUNNING", "RUNNING"]
    last = states[-1]
    assert (last.state, last.good) == ("SUCCEEDED", True)
    assert [s.name for s in last.steps if s.name in STEPS] == list(STEPS)
    assert all(s.state == "SUCCEEDED" and s.seconds for s in last.steps)
    assert last.finished is not None
    assert last.created is not None
    assert states == [s for n, s in enumerate(states) if not n or s != states[n - 1]]


def test_what_has_not_happened_has_no_time(kfp_api: KfpApi, send: Submit) -> None:
    state = send().state()
    assert state.finished is None
    assert state.created is not None


def test_a_failed_step_is_named_with_its_error(kfp_api: KfpApi, send: Submit) -> None:
    kfp_api.backend.script.fails = {"verify": "exit code 1"}
    *_, last = send().progress(poll_s=0)
    assert (last.state, last.good) == ("FAILED", False)
    assert [s.name for s in last.failed_steps] == ["verify"]
    assert last.error == "exit code 1"


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_a_connection_that_is_lost_while_following_is_taken_up_again(kfp_api: KfpApi, send: Submit, status: int) -> None:
    run, told = send(), []
    kfp_api.faults = [Fault("GET", run.id, status=status, times=3)]
    *_, last = run.progress(poll_s=0, tell=told.append)
    assert last.state == "SUCCEEDED"
    assert ["is lost" in told[0], told[1:]] == [True, ["the connection to Kubeflow is back"]]


def test_following_ends_when_nothing_answers_for_too_long_and_says_how_to_go_on(kfp_api: KfpApi, send: Submit) -> None:
    run = send()
    kfp_api.faults = [Fault("GET", run.id, status=503, times=1000)]
    with pytest.raises(ClusterError, match="which goes on") as caught:
        list(run.progress(poll_s=0, patience_s=0.05))
    assert f"enginepress status {run.id} --follow --host {kfp_api.url}" in str(caught.value.fix)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_while_following_ends_it_at_once(kfp_api: KfpApi, send: Submit, status: int) -> None:
    run = send()
    kfp_api.faults = [Fault("GET", run.id, status=status, times=9)]
    with pytest.raises(ClusterError, match=rf"\({status}: "):
        list(run.progress(poll_s=0))
    assert kfp_api.faults[0].times == 8


def test_a_run_is_cancelled_once_and_stays_so(kfp_api: KfpApi, send: Submit) -> None:
    run = send()
    next(run.progress(poll_s=0))
    assert run.cancel().state in ("CANCELING", "CANCELED")
    assert run.wait(poll_s=0).state == "CANCELED"
    assert run.cancel().state == "CANCELED"
    assert len(kfp_api.asked("POST", r"/runs/[^/]+:terminate")) == 1


def test_cancelling_what_has_ended_leaves_it_as_it_is(kfp_api: KfpApi, send: Submit) -> None:
    run = send()
    run.wait(poll_s=0)
    assert run.cancel().state == "SUCCEEDED"
    assert kfp_api.asked("POST", r"/runs/[^/]+:terminate") == []


def test_a_cancellation_whose_answer_is_lost_is_one(kfp_api: KfpApi, send: Submit) -> None:
    run = send()
    kfp_api.backend.script.stands = True
    kfp_api.faults = [Fault("POST", ":terminate", status=502, after=True)]
    assert run.cancel().state == "CANCELING"


# Logs -----------------------------------------------------------------------------------------------------------------


def _ended(kfp_api: KfpApi, send: Submit) -> tuple[object, RunState]:
    kfp_api.backend.script.fails = {"verify": "exit code 1"}
    run = send()
    return run, run.wait(poll_s=0)


def test_the_log_of_a_step_is_read_whether_it_is_retried_or_not(kfp_api: KfpApi, send: Submit) -> None:
    run, state = send(), None
    state = run.wait(poll_s=0)
    for step in state.steps:
        assert log_of(run, step) == f"{step.name}: first line\n{step.name}: last line\n"


def test_without_a_name_it_is_the_step_that_failed(kfp_api: KfpApi, send: Submit) -> None:
    _, state = _ended(kfp_api, send)
    assert [s.name for s in chosen_steps(state, ())] == ["verify"]
    assert [s.name for s in chosen_steps(state, ("resolve",))] == ["resolve"]
    with pytest.raises(ClusterError, match="no step 'publish'"):
        chosen_steps(state, ("publish",))


def test_a_log_that_is_gone_is_none_although_the_api_says_200(kfp_api: KfpApi, send: Submit) -> None:
    kfp_api.backend.lost_logs = {"resolve"}
    run = send()
    state = run.wait(poll_s=0)
    assert log_of(run, state.steps[0]) is None


def test_logs_are_asked_for_with_the_token(kfp_api: KfpApi, send: Submit, quick: Api) -> None:
    run = send()
    state = run.wait(poll_s=0)
    kfp_api.tokens = {"other"}
    with pytest.raises(ClusterError, match="401"):
        log_of(run, state.steps[0])
