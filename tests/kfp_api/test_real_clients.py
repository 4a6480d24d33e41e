"""kfp's own client and command line against the double, and what they submit beside what we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.recipe import Recipe
from enginepress.recipe_file import travelling_json
from enginepress.run.packages import Package
from tests.kfp_api.conftest import Submit
from tests.kfp_api.rules import read_package
from tests.kfp_api.server import KfpApi

KFP = str(Path(sys.executable).parent / "kfp")


@pytest.fixture
def compiled(package: Package, tmp_path: Path) -> Path:
    path = tmp_path / "build_and_publish.yaml"
    path.write_text(package.text)
    return path


@pytest.fixture
def client(kfp_api: KfpApi) -> Any:
    from kfp import Client

    with pytest.warns(FutureWarning):
        return Client(host=kfp_api.url, namespace="kubeflow")


def _kfp(kfp_api: KfpApi, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [KFP, "--endpoint", kfp_api.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)


def test_kfp_run_create_with_the_documented_parameters_submits_the_same_pipeline(
    kfp_api: KfpApi, compiled: Path, recipe: Recipe, package: Package, send: Submit
) -> None:
    # What looks like JSON is read as JSON by kfp's command line: a text that is JSON is given as a JSON text.
    given = f"recipe={json.dumps(travelling_json(recipe))}"
    done = _kfp(kfp_api, "run", "create", "-e", "mine", "-r", "by-hand", "-f", str(compiled), given, "store_pvc=models")
    assert done.returncode == 0, done.stderr
    send()
    by_hand, ours = kfp_api.asked("POST", "/runs")
    assert by_hand.body["runtime_config"]["parameters"] == {"recipe": travelling_json(recipe), "store_pvc": "models"}
    (uploaded,) = kfp_api.asked("POST", "/pipelines/upload_version")
    assert _plain(by_hand.body["pipeline_spec"]) == _plain(read_package(uploaded.body)) == _plain(read_package(package.text))
    assert ours.body["pipeline_version_reference"]["pipeline_version_id"] in kfp_api.backend.versions


def _plain(spec: dict[str, Any]) -> Any:
    """Through the protobuf and back, as kfp's client sends it: numbers and empty values are written in one way."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    whole = json_format.MessageToDict(json_format.ParseDict(spec.get("pipeline_spec", spec), pipeline_spec_pb2.PipelineSpec()))
    return whole, json_format.MessageToDict(json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec()))


def test_a_parameter_that_there_is_not_is_refused_by_the_backend(kfp_api: KfpApi, compiled: Path) -> None:
    done = _kfp(kfp_api, "run", "create", "-e", "mine", "-r", "by-hand", "-f", str(compiled), "recipe=x", "bad=3")
    assert done.returncode != 0
    assert "not required by pipeline: bad" in done.stderr
    done = _kfp(kfp_api, "run", "create", "-e", "mine", "-r", "by-hand", "-f", str(compiled))
    assert "parameter recipe is not optional" in done.stderr
    assert kfp_api.backend.runs == {}


def test_kfps_client_finds_and_waits_for_our_run(kfp_api: KfpApi, client: Any, send: Submit) -> None:
    run = send()
    assert client.get_run(run.id).display_name == run.name
    listed = client.list_runs(experiment_id=client.get_experiment(experiment_name="enginepress").experiment_id)
    assert [r.run_id for r in listed.runs] == [run.id]
    assert client.get_pipeline_id("enginepress-build-and-publish") in kfp_api.backend.pipelines
    assert client.wait_for_run_completion(run.id, timeout=60, sleep_duration=0).state == "SUCCEEDED"


def test_kfps_client_makes_pipelines_versions_and_recurring_runs(kfp_api: KfpApi, client: Any, compiled: Path) -> None:
    pipeline = client.upload_pipeline(str(compiled), pipeline_name="by-hand")
    version = client.upload_pipeline_version(str(compiled), "second", pipeline_id=pipeline.pipeline_id)
    experiment = client.create_experiment("mine")
    same: dict[str, Any] = {
        "pipeline_id": pipeline.pipeline_id,
        "version_id": version.pipeline_version_id,
        "params": {"recipe": "x"},
    }
    one = client.create_recurring_run(experiment.experiment_id, "nightly", cron_expression="0 0 3 * * *", **same)
    client.disable_recurring_run(one.recurring_run_id)
    assert client.get_recurring_run(one.recurring_run_id).status == "DISABLED"
    client.enable_recurring_run(one.recurring_run_id)
    assert [r.status for r in client.list_recurring_runs(experiment_id=experiment.experiment_id).recurring_runs] == ["ENABLED"]
    client.delete_recurring_run(one.recurring_run_id)
    assert kfp_api.backend.recurring == {}
    import kfp_server_api

    with pytest.raises(kfp_server_api.ApiException, match="not a supported format"):
        client.create_recurring_run(experiment.experiment_id, "nightly", cron_expression="every day", **same)
    # Five fields are taken, and the first is read as seconds: the trap that `enginepress schedule` keeps people out of.
    client.create_recurring_run(experiment.experiment_id, "nightly", cron_expression="*/15 * * * *", **same)


def test_the_double_refuses_what_the_models_do_not_have(kfp_api: KfpApi, client: Any) -> None:
    import urllib.error
    import urllib.request

    for body in ({"display_name": "x", "colour": "red"}, {"display_name": 7}):
        request = urllib.request.Request(
            f"{kfp_api.url}/apis/v2beta1/runs", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{kfp_api.url}/apis/v2beta1/runs?colour=red")


def test_the_compiled_yaml_names_no_secret_value(package: Package) -> None:
    documents = list(yaml.safe_load_all(package.text))
    assert len(documents) == 2
    assert "Bearer" not in package.text
