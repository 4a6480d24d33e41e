"""The commands as people type them: submit, status, logs, cancel, schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.steps.run_report import in_log
from tests.kfp_api.conftest import Submit
from tests.kfp_api.mountable import EXAMPLES
from tests.kfp_api.server import Fault, KfpApi

Type = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def type_it(kfp_api: KfpApi, tmp_path: Path) -> Type:
    def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "enginepress", *arguments],
            capture_output=True,
            text=True,
            env=_environment(kfp_api, tmp_path, **environment),
            check=False,
        )

    return command


def _environment(kfp_api: KfpApi, tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "KF_PIPELINES_ENDPOINT": kfp_api.url,
        "XDG_CACHE_HOME": str(Path(tmp_path.parent) / "cache"),
        "ENGINEPRESS_IMAGE": "registry.example.org/enginepress@sha256:" + "a" * 64,
        "COLUMNS": "200",
        **more,
    }


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A recipe that can be planned from here, for a store that only a cluster sees."""
    example = EXAMPLES / "checkpoints" / "tiny-llama"
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"name: tiny\nsource: file://{example}\nengine: {{builder: onnxruntime, precision: int8}}\n"
        "checks: {prompts: [{text: The, pattern: a}]}\nstores: ['file:///mnt/models/releases']\n"
    )
    return path


MOUNT = ("--mount", f"examples:{EXAMPLES}")


def test_a_recipe_is_submitted_and_followed_to_its_end(kfp_api: KfpApi, type_it: Type, tiny: Path) -> None:
    done = type_it("submit", str(tiny), *MOUNT, "--poll", "0.02", "--set", "store_pvc=models")
    assert done.returncode == 0, done.stderr
    ((run_id, run),) = kfp_api.backend.runs.items()
    assert run.answer["runtime_config"]["parameters"]["store_pvc"] == "models"
    assert done.stdout.splitlines()[0] == f"submitted  {run.answer['display_name']}  {run_id}"
    assert f"{kfp_api.url}/#/runs/details/{run_id}" in done.stdout
    assert "succeeded" in done.stdout
    assert "publish      succeeded" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_run_that_fails_ends_with_1_and_the_command_that_shows_why(kfp_api: KfpApi, type_it: Type, tiny: Path) -> None:
    kfp_api.backend.script.fails = {"verify": "exit code 1"}
    report = "# Run tiny: failed\n\n**verify failed.** the gate refused"
    said_by_kfp = "[KFP Executor 2026-05-01 12:00:00,000 INFO]: Wrote executor output file\n"
    kfp_api.backend.logs = {"verify": "error: the gate refused\n", "report": f"{in_log(report)}\n{said_by_kfp}"}
    done = type_it("submit", str(tiny), *MOUNT, "--poll", "0.02", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["state"], said["error"], said["report"]) == ("FAILED", "exit code 1", report)
    assert "in verify: exit code 1" in done.stderr
    assert f"enginepress logs {said['run']}" in done.stderr
    assert type_it("logs", said["run"]).stdout == "error: the gate refused\n"
    everything = type_it("logs", said["name"], "--all")
    assert "resolve: first line" in everything.stdout
    kfp_api.backend.lost_logs = {"verify"}
    gone = type_it("logs", said["run"])
    assert gone.returncode == 1
    assert f"kubectl logs -n kubeflow -l pipeline/runid={said['run']}" in gone.stderr


def test_a_wrong_recipe_a_plan_that_does_not_fit_and_a_local_store_are_refused_before_anything_is_sent(
    kfp_api: KfpApi, type_it: Type, tiny: Path
) -> None:
    text = tiny.read_text()
    for wrong, said in (
        (text.replace("int8", "int9"), "int9"),
        (text.replace("/mnt/models", "/home/me"), "is a path of this machine"),
        (
            text.replace(
                "builder: onnxruntime, precision: int8", "builder: tensorrt_llm, precision: fp8, gpu: {name: A100-SXM4-80GB}"
            ),
            "fp8",
        ),
    ):
        tiny.write_text(wrong)
        done = type_it("submit", str(tiny), *MOUNT)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "next:" in done.stderr
    assert kfp_api.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [("submit", "tiny.yaml"), ("schedule", "enginepress-recipes", "--cron", "@daily")], ids=str)
def test_an_image_must_be_named_before_anything_is_sent(
    kfp_api: KfpApi, type_it: Type, tiny: Path, command: tuple[str, ...]
) -> None:
    words = [str(tiny) if word == tiny.name else word for word in command]
    done = type_it(*words, ENGINEPRESS_IMAGE="")
    assert done.returncode == 2
    assert "which image do the steps run in?" in done.stderr
    assert "ENGINEPRESS_IMAGE" in done.stderr
    assert kfp_api.requests == []


def test_status_lists_shows_and_follows(kfp_api: KfpApi, type_it: Type, send: Submit) -> None:
    assert "no runs in the experiment" in type_it("status").stdout
    run = send()
    assert run.id in type_it("status").stdout
    assert [r["run"] for r in json.loads(type_it("status", "--json").stdout)] == [run.id]
    assert type_it("status", run.name).stdout.startswith("running  tiny-")
    followed = type_it("status", run.url, "--follow", "--poll", "0.02")
    assert (followed.returncode, followed.stdout.split()[0]) == (0, "succeeded")
    missing = type_it("status", "nobody")
    assert (missing.returncode, "there is no run 'nobody'" in missing.stderr) == (1, True)


@pytest.mark.slow
def test_cancel_ends_a_run_and_says_when_there_was_nothing_to_end(kfp_api: KfpApi, type_it: Type, send: Submit) -> None:
    run = send()
    assert type_it("cancel", run.id, "--wait").stdout.split()[0] == "canceled"
    other = send()
    other.wait(poll_s=0)
    late = type_it("cancel", other.id)
    assert (late.returncode, "had ended before: succeeded" in late.stderr) == (1, True)


def test_ctrl_c_leaves_the_run_and_says_how_to_go_on(kfp_api: KfpApi, tiny: Path, tmp_path: Path) -> None:
    kfp_api.backend.script.stands = True
    process = subprocess.Popen(
        [sys.executable, "-m", "enginepress", "submit", str(tiny), *MOUNT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(kfp_api, tmp_path),
    )
    deadline = time.monotonic() + 60
    while not [r for r in kfp_api.requests if r.method == "GET" and "/runs/" in r.path] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    (run_id,) = kfp_api.backend.runs
    assert process.returncode == 130
    assert f"enginepress status {run_id} --follow" in said
    assert kfp_api.backend.runs[run_id].answer["state"] == "PENDING"


@pytest.mark.slow
def test_a_token_is_in_no_output_not_even_of_a_fault(kfp_api: KfpApi, type_it: Type, tiny: Path) -> None:
    kfp_api.tokens = {"sesame"}
    done = type_it("submit", str(tiny), *MOUNT, "--poll", "0.02", KF_PIPELINES_TOKEN="sesame")
    assert done.returncode == 0, done.stderr
    kfp_api.faults = [Fault("GET", "/healthz", status=403, text='{"message": "no: Bearer sesame"}', times=9)]
    refused = type_it("status", KF_PIPELINES_TOKEN="sesame")
    assert refused.returncode == 1
    assert "sesame" not in done.stdout + done.stderr + refused.stdout + refused.stderr


def test_a_schedule_is_made_listed_paused_resumed_and_deleted(kfp_api: KfpApi, type_it: Type) -> None:
    made = type_it("schedule", "enginepress-recipes", "--cron", "0 */15 * * * *", "--time-zone", "Europe/Berlin")
    assert made.returncode == 0, made.stderr
    first, *times = made.stdout.splitlines()
    assert first == "created    enginepress-rebuild  0 */15 * * * *  recipes of enginepress-recipes"
    assert len([t for t in times if "Europe/Berlin" in t]) == 4
    assert "CRON_SCHEDULE_TIMEZONE" in times[-1]
    assert type_it("schedule", "enginepress-recipes", "--cron", "0 */15 * * * *").stdout.startswith("unchanged")
    assert type_it("schedule", "--pause").stdout.startswith("paused")
    assert type_it("schedule", "--list").stdout == "paused  enginepress-rebuild  0 */15 * * * *  recipes of enginepress-recipes\n"
    assert type_it("schedule", "--resume").stdout.startswith("resumed")
    started = type_it("schedule", "--now", "--retry-failed")
    ((run_id, run),) = kfp_api.backend.runs.items()
    assert started.stdout.splitlines()[0] == f"started  {run.answer['display_name']}  {run_id}"
    assert f"enginepress status {run_id} --follow" in started.stdout
    assert json.loads(type_it("schedule", "--now", "--retry-failed", "--json").stdout) == {
        "run": run_id,
        "name": run.answer["display_name"],
        "url": f"{kfp_api.url}/#/runs/details/{run_id}",
        "found": True,
    }
    assert json.loads(type_it("schedule", "--list", "--json").stdout)[0]["paused"] is False
    assert type_it("schedule", "--delete").stdout.startswith("deleted")
    assert kfp_api.backend.recurring == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enginepress-recipes", "--cron", "*/15 * * * *"], '--cron "0 */15 * * * *"'),
        (["enginepress-recipes"], "what is to be done?"),
        (["--pause", "--delete"], "what is to be done?"),
        (["--now", "--cron", "@daily"], "what is to be done?"),
        (["enginepress-recipes", "--delete"], "--delete does not ask for recipes"),
        (["enginepress-recipes", "--list"], "--list does not ask for recipes"),
        (["enginepress-recipes", "--cron", "@daily", "--retry-failed"], "--now --retry-failed"),
        (["--cron", "@daily"], "which recipes?"),
        (["examples/recipes", "--cron", "@daily"], "kubectl create configmap"),
        (["enginepress-recipes", "--cron", "@daily", "--time-zone", "Mars"], "no time zone"),
        (["enginepress-recipes", "--cron", "@daily", "--set", "nonsense=1"], "no parameter 'nonsense'"),
        (["enginepress-recipes", "--cron", "@daily", "--set", "recipes=others"], "'recipes' is no parameter that can be set"),
        (["Our_Recipes", "--cron", "@daily"], "is no name of a ConfigMap"),
        (["", "--cron", "@daily"], "is no name of a ConfigMap"),
        (["enginepress-recipes", "--cron", "@daily", "--name", ""], "1 to 100 letters"),
        (["--delete", "--name", ""], "1 to 100 letters"),
        (["--pause", "--name", " "], "1 to 100 letters"),
    ],
    ids=str,
)
def test_a_schedule_that_makes_no_sense_is_refused_before_anything_is_sent(
    kfp_api: KfpApi, type_it: Type, arguments: list[str], said: str
) -> None:
    done = type_it("schedule", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert kfp_api.requests == []


@pytest.mark.slow
def test_a_dry_run_prints_the_command_with_which_kfp_submits_the_same(
    kfp_api: KfpApi, type_it: Type, tiny: Path, tmp_path: Path
) -> None:
    """Word for word, through a shell."""
    assert type_it("compile", "-o", str(tmp_path / "compiled"), *MOUNT).returncode == 0
    dry = type_it("submit", str(tiny), *MOUNT, "--set", "store_pvc=models", "--dry-run")
    assert (dry.returncode, kfp_api.requests) == (0, [])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = _environment(kfp_api, tmp_path, PATH=path, HOME=str(tmp_path))
    done = subprocess.run(dry.stdout, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert type_it("submit", str(tiny), *MOUNT, "--set", "store_pvc=models", "--no-follow").returncode == 0
    by_kfp, ours = kfp_api.asked("POST", "/runs")
    assert by_kfp.body["runtime_config"] == ours.body["runtime_config"]
