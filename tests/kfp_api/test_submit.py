"""Submitting a recipe: what is sent, and that it is sent once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enginepress.errors import ClusterError, UsageError
from enginepress.recipe import Recipe
from enginepress.recipe_file import recipe_from_json
from enginepress.run.api import Api
from enginepress.run.cluster import find_run, list_runs, open_place, upload
from enginepress.run.connection import connect
from enginepress.run.packages import Package, read_package, read_value
from tests.kfp_api.conftest import Submit
from tests.kfp_api.server import Fault, KfpApi


def test_a_recipe_becomes_one_run_of_an_uploaded_version(kfp_api: KfpApi, send: Submit, package: Package, recipe: Recipe) -> None:
    run = send()
    (sent,) = kfp_api.asked("POST", "/runs")
    (uploaded,) = kfp_api.asked("POST", "/pipelines/upload_version")
    assert uploaded.body == package.text
    assert uploaded.query["name"] == package.digest[:16]
    assert "pipeline_spec" not in sent.body
    parameters = sent.body["runtime_config"]["parameters"]
    assert recipe_from_json(parameters["recipe"], parameters["recipe_digest"]) == recipe
    assert run.url == f"{kfp_api.url}/#/runs/details/{run.id}"
    assert kfp_api.run_names() == [run.name]


def test_a_pipeline_is_uploaded_once_whatever_is_submitted(kfp_api: KfpApi, send: Submit) -> None:
    send()
    send(again=True)
    assert len(kfp_api.backend.runs) == 2
    assert len(kfp_api.asked("POST", "/pipelines/upload_version")) == 1
    assert len(kfp_api.asked("POST", "/pipelines")) == 1
    assert len(kfp_api.asked("POST", "/experiments")) == 1


def test_another_pipeline_is_another_version_of_the_same(kfp_api: KfpApi, send: Submit, package: Package, quick: Api) -> None:
    send()
    upload(open_place(quick, "enginepress"), read_package(package.pipeline, package.text + "# changed"))
    assert len(kfp_api.backend.pipelines) == 1
    assert len(kfp_api.backend.versions) == 2


def test_what_is_being_built_is_not_submitted_again(kfp_api: KfpApi, send: Submit) -> None:
    first = send()
    second = send()
    assert (second.id, second.found) == (first.id, True)
    assert len(kfp_api.backend.runs) == 1
    first.wait(poll_s=0)
    assert send().id != first.id


def test_another_recipe_or_another_parameter_is_another_run(kfp_api: KfpApi, send: Submit) -> None:
    send()
    assert not send(force=True).found
    assert len(kfp_api.backend.runs) == 2


def test_no_secret_is_sent(kfp_api: KfpApi, send: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    kfp_api.tokens = {"sesame"}
    api = Api(connect(kfp_api.url, token="sesame", environment={}))
    send(api)
    everything = json.dumps([[r.path, r.query, r.body] for r in kfp_api.requests])
    assert "hunter2" not in everything
    assert "sesame" not in everything
    assert {r.token for r in kfp_api.requests} == {"sesame"}


def test_parameters_that_the_pipeline_does_not_have_are_refused_before_anything_is_sent(
    kfp_api: KfpApi, send: Submit, package: Package
) -> None:
    with pytest.raises(UsageError, match="'nonsense' is no parameter"):
        send(parameters={"nonsense": 1})
    assert kfp_api.requests == []
    with pytest.raises(UsageError, match="no parameter 'nonsense'"):
        read_value(package, "nonsense", "1")
    assert read_value(package, "force", "TRUE") is True
    with pytest.raises(UsageError, match="'perhaps' is not true or false"):
        read_value(package, "force", "perhaps")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("gpu_count", -1, "is less than 0"),
        ("gpu_count", 1.5, "is not a whole number"),
        ("image", "", "is no name of an image"),
        ("gpu_image", "two words", "is no name of an image"),
        ("workspace_pvc", "", "is no name of a Kubernetes object"),
        ("store_pvc", "Our_Models", "is no name of a Kubernetes object"),
        ("s3_secret", "a/b", "is no name of a Kubernetes object"),
        ("gpu_resource", "gpu", "is no resource"),
        ("node_selector", {"zone": 1}, "has a value that is no text"),
        ("gpu_tolerations", ["nvidia.com/gpu"], "has an entry that is no toleration"),
        ("recipe", "{}", "is no parameter that can be set"),
    ],
    ids=str,
)
def test_values_with_which_no_pod_would_start_are_refused_before_anything_is_sent(
    kfp_api: KfpApi, send: Submit, name: str, value: object, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        send(parameters={name: value})
    assert caught.value.fix
    assert kfp_api.requests == []


def test_values_that_pods_start_with_are_sent_as_they_are(kfp_api: KfpApi, send: Submit) -> None:
    given = {
        "gpu_resource": "nvidia.com/mig-3g.40gb",
        "gpu_image": "",
        "image": "localhost:5000/a/b:1@sha256:" + "0" * 64,
        "gpu_node_selector": {"zone": "a"},
        "gpu_tolerations": [{"key": "pool", "operator": "Exists"}],
        "store_pvc": "models.team-a",
        "gpu_count": 0,
    }
    send(parameters=given)
    (sent,) = kfp_api.asked("POST", "/runs")
    assert given.items() <= sent.body["runtime_config"]["parameters"].items()


def test_a_kubeflow_of_several_namespaces_wants_one(send: Submit) -> None:
    with KfpApi(multi_user=True) as server:
        with pytest.raises(UsageError, match="serves several namespaces"):
            send(Api(connect(server.url, environment={})))
        api = Api(connect(server.url, namespace="team-b", environment={}))
        run = send(api)
        assert send(api).id == run.id
        assert {e["namespace"] for e in server.backend.experiments.values()} == {"team-b"}
        assert {p["namespace"] for p in server.backend.pipelines.values()} == {"team-b"}


def test_a_namespace_is_not_sent_where_there_is_only_one(kfp_api: KfpApi, send: Submit) -> None:
    send(Api(connect(kfp_api.url, namespace="kubeflow", environment={})))
    assert not any("namespace" in r.query or (isinstance(r.body, dict) and "namespace" in r.body) for r in kfp_api.requests)


# Never twice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/runs", "/experiments", "/pipelines", "/upload_version"])
def test_an_answer_that_was_lost_after_the_work_was_done_makes_nothing_twice(
    kfp_api: KfpApi, send: Submit, path: str, status: int
) -> None:
    kfp_api.faults = [Fault("POST", path, status=status, after=True)]
    run = send()
    assert kfp_api.run_names() == [run.name]
    assert len(kfp_api.backend.versions) == len(kfp_api.backend.pipelines) == len(kfp_api.backend.experiments) == 1
    assert len([r for r in kfp_api.requests if r.method == "POST" and r.path.endswith(path)]) == 1


@pytest.mark.parametrize("status", [0, 429, 500, 503])
@pytest.mark.parametrize("path", ["/runs", "/experiments", "/pipelines", "/upload_version"])
def test_a_request_that_did_not_arrive_is_sent_again(kfp_api: KfpApi, send: Submit, path: str, status: int) -> None:
    kfp_api.faults = [Fault("POST", path, status=status, times=2)]
    run = send()
    assert kfp_api.run_names() == [run.name]


def test_a_lost_run_is_looked_for_before_it_is_sent_again(kfp_api: KfpApi, send: Submit) -> None:
    kfp_api.faults = [Fault("POST", "/runs", status=0)]
    send()
    calls = [(r.method, r.path.rpartition("/")[2]) for r in kfp_api.requests if r.path.endswith("/runs")]
    looks = [("GET", "runs")] * 2
    assert calls == [("GET", "runs"), ("POST", "runs"), *looks, ("POST", "runs"), *looks]


def test_a_run_that_turns_up_late_is_cancelled_as_the_younger_of_two(kfp_api: KfpApi, send: Submit, quick: Api) -> None:
    """A proxy may deliver a request long after it gave up on it."""
    create = kfp_api.backend.create_run

    def late(data: Any) -> Any:
        late_one = create(dict(data))
        del late_one
        return create(dict(data))

    kfp_api.faults = [Fault("POST", "/runs", status=0)]
    kfp_api.backend.create_run = late  # type: ignore[method-assign]
    run = send()
    first, second = kfp_api.backend.runs.values()
    assert run.id == first.answer["run_id"]
    assert (first.answer["state"], second.answer["state"]) == ("PENDING", "CANCELING")


def test_of_two_who_submit_the_same_at_once_the_later_one_follows_the_earlier(kfp_api: KfpApi, send: Submit) -> None:
    create = kfp_api.backend.create_run

    def both(data: Any) -> Any:
        create({**data, "display_name": data["display_name"][:-8] + "somebody"})
        return create(data)

    kfp_api.backend.create_run = both  # type: ignore[method-assign]
    run = send()
    first, second = kfp_api.backend.runs.values()
    assert (run.id, run.found) == (first.answer["run_id"], True)
    assert (first.answer["state"], second.answer["state"]) == ("PENDING", "CANCELING")


def test_a_run_that_is_being_cancelled_is_not_taken_for_one_at_work(kfp_api: KfpApi, send: Submit) -> None:
    first = send()
    kfp_api.backend.script.stands = True
    assert first.cancel().state == "CANCELING"
    assert not send().found


def test_a_timeout_is_a_lost_answer(kfp_api: KfpApi, recipe: Recipe, send: Submit) -> None:
    from dataclasses import replace

    api = Api(replace(connect(kfp_api.url, environment={}), read_s=0.3), pauses=(0.01,), looks=(0.05, 0.5))
    kfp_api.faults = [Fault("POST", "/runs", status=200, hang=0.6, after=True)]
    run = send(api)
    assert kfp_api.run_names() == [run.name]
    assert len(kfp_api.asked("POST", "/runs")) == 1


def test_when_nothing_answers_any_more_it_says_that_nobody_knows(kfp_api: KfpApi, send: Submit) -> None:
    kfp_api.faults = [Fault("POST", "/runs", status=0, after=True)]
    looked = len(["before"])
    kfp_api.faults.append(Fault("GET", "/runs", status=503, times=0))
    original = kfp_api.backend.create_run

    def create(data: Any) -> Any:
        kfp_api.faults[1].times = 99
        return original(data)

    kfp_api.backend.create_run = create  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="the answer was lost when trying to submit the run") as caught:
        send()
    assert caught.value.fix == "run the same command again: it looks before it sends anything"
    kfp_api.faults.clear()
    assert send().found
    assert len(kfp_api.backend.runs) == looked


# Looking --------------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_its_name_and_its_page(kfp_api: KfpApi, send: Submit) -> None:
    run = send()
    connection = connect(kfp_api.url, environment={})
    for which in (run.id, run.name, run.url, f"{run.url}?tab=graph"):
        assert find_run(connection, which).id == run.id
    with pytest.raises(ClusterError, match="there is no run 'nobody'"):
        find_run(connection, "nobody")


def test_the_newest_runs_come_first(kfp_api: KfpApi, send: Submit) -> None:
    connection = connect(kfp_api.url, environment={})
    assert list_runs(connection) == []
    names = [send(again=True).name for _ in range(3)]
    assert [r.name for r in list_runs(connection)] == names[::-1]
