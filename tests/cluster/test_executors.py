"""What each task asks a cluster for, in both pipelines: image, command, resources, GPU, volumes, secrets, security, retries."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from enginepress.compile_options import CompileOptions, Mount, bytes_of, mirrored
from enginepress.errors import UsageError
from enginepress.run.compiled import PIPELINES, compile_pipeline
from enginepress.steps import STEPS
from tests.cluster.compiled import IMAGE, Compiled, compiled

GPU_STEPS = ("convert", "build", "verify")


@pytest.fixture(scope="module", params=PIPELINES)
def pipeline(request: pytest.FixtureRequest) -> Compiled:
    return compiled(request.param)


@pytest.fixture(scope="module")
def build() -> Compiled:
    return compiled("build_and_publish")


def test_the_steps_are_there_and_an_exit_handler_reports(pipeline: Compiled) -> None:
    more = {"find-changed", "conclude"} if "find-changed" in pipeline.tasks else set()
    assert set(pipeline.tasks) == {*STEPS, "report", *more}
    report = pipeline.tasks["report"]
    assert report.scope == "root"
    assert report.spec["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_every_step_leaves_a_summary_for_kubeflows_page(pipeline: Compiled) -> None:
    for name, task in pipeline.tasks.items():
        component = pipeline.pipeline["components"][task.spec["componentRef"]["name"]]
        summary = component["outputDefinitions"]["artifacts"]["summary"]
        assert summary["artifactType"]["schemaTitle"] == "system.Markdown", name


def test_light_steps_run_in_the_image_of_the_run_and_ask_for_no_gpu(pipeline: Compiled) -> None:
    assert pipeline.parameters["image"]["defaultValue"] == IMAGE
    for name, task in pipeline.tasks.items():
        if name in GPU_STEPS:
            continue
        assert re.fullmatch(r"\{\{\$\.inputs\.parameters\['pipelinechannel--image'\]\}\}", task.container["image"]), name
        assert "accelerator" not in task.resources, name
        assert "nodeAffinity" not in task.platform, name
        assert task.env["NVIDIA_VISIBLE_DEVICES"] == "void", "NVIDIA's images ask for all GPUs by themselves"
        resources = task.resources
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"]
        assert bytes_of(resources["resourceMemoryLimit"], where=name) >= 2**30


@pytest.mark.parametrize("step", GPU_STEPS)
def test_convert_build_and_verify_get_what_resolve_found(pipeline: Compiled, step: str) -> None:
    task = pipeline.tasks[step]
    inputs = task.spec["inputs"]["parameters"]

    def comes_from(text: str) -> str:
        (channel,) = re.findall(r"^\{\{\$\.inputs\.parameters\['(.+)'\]\}\}$", text)
        assert inputs[channel]["taskOutputParameter"]["producerTask"] == "resolve"
        return str(inputs[channel]["taskOutputParameter"]["outputParameterKey"])

    resources = task.resources
    assert comes_from(task.container["image"]) == f"{step}_image"
    assert comes_from(resources["resourceCpuRequest"]) == comes_from(resources["resourceCpuLimit"]) == f"{step}_cpu"
    assert comes_from(resources["resourceMemoryRequest"]) == comes_from(resources["resourceMemoryLimit"]) == f"{step}_memory"
    assert comes_from(resources["accelerator"]["resourceType"]) == f"{step}_gpu_resource"
    assert comes_from(resources["accelerator"]["resourceCount"]) == f"{step}_gpu_count"
    (affinity,) = task.platform["nodeAffinity"]
    assert affinity["nodeAffinityJson"]["taskOutputParameter"] == {
        "producerTask": "resolve",
        "outputParameterKey": f"{step}_affinity",
    }
    assert "NVIDIA_VISIBLE_DEVICES" not in task.env


def test_resolve_returns_what_the_pods_are_made_of() -> None:
    from dataclasses import fields

    from enginepress.components.resolve import resolve
    from enginepress.steps.pods import GPU_STEPS as STEPS_WITH_GPU
    from enginepress.steps.pods import Pod

    outputs = [name for name in resolve.component_spec.outputs if name != "summary"]
    assert outputs == ["plan", *(f"{step}_{f.name}" for step in STEPS_WITH_GPU for f in fields(Pod))]


def test_every_task_runs_as_nobody_in_particular_for_a_limited_time(pipeline: Compiled) -> None:
    for name, task in pipeline.tasks.items():
        assert task.platform["securityContext"] == {"runAsNonRoot": True}, "an arbitrary uid: none is named"
        assert 0 < int(task.platform["activeDeadlineSeconds"]) <= 12 * 3600, name


def test_kubeflow_before_2_16_gets_no_security_context() -> None:
    """Its compiler refuses what it does not know: of all that is set, that is the only thing."""
    for task in compiled("build_and_publish", security_context=False).tasks.values():
        assert "securityContext" not in task.platform


def test_no_task_is_cached_installs_anything_or_runs_else_than_kfps_executor(pipeline: Compiled) -> None:
    for name, task in pipeline.tasks.items():
        assert not task.spec.get("cachingOptions", {}).get("enableCache"), name
        command = " ".join(task.container["command"])
        assert "kfp.dsl.executor_main" in command, name
        assert "pip install" not in command, name


def test_the_workspace_is_everywhere_and_the_store_where_it_is_read_or_written(build: Compiled) -> None:
    for name, task in build.tasks.items():
        mounts = task.pvc_mounts
        assert mounts.pop("/workspace") == "workspace_pvc", name
        stores = {"resolve", "download", "verify", "publish", "register", "promote"}
        assert mounts == ({"/mnt/models": "store_pvc"} if name in stores else {}), name


def test_scratch_lies_on_the_nodes_own_disk_and_shared_memory_in_memory(build: Compiled) -> None:
    for name, task in build.tasks.items():
        volumes = {v["mountPath"]: v for v in task.platform["emptyDirMounts"]}
        if name in GPU_STEPS:
            assert volumes["/tmp"]["sizeLimit"] == "200Gi"
            assert volumes["/dev/shm"] == {
                "volumeName": "shared-memory",
                "mountPath": "/dev/shm",
                "medium": "Memory",
                "sizeLimit": "16Gi",
            }
        else:
            assert set(volumes) == {"/tmp"}


def test_scratch_can_be_a_volume_of_its_own() -> None:
    tasks = compiled("build_and_publish", scratch_class="local-nvme", scratch="1Ti").tasks
    for task in (tasks[step] for step in GPU_STEPS):
        (volume,) = task.platform["genericEphemeralVolume"]
        assert (volume["mountPath"], volume["size"], volume["storageClassName"]) == ("/tmp", "1Ti", "local-nvme")


@pytest.mark.parametrize(
    ("step", "secrets"),
    [
        ("resolve", {"source_secret", "s3_secret"}),
        ("download", {"source_secret", "s3_secret"}),
        ("convert", set()),
        ("build", set()),
        ("assemble", set()),
        ("verify", {"s3_secret"}),
        ("publish", {"s3_secret"}),
        ("register", {"s3_secret", "registry_secret"}),
        ("promote", {"s3_secret", "registry_secret"}),
        ("report", set()),
    ],
)
def test_a_step_gets_the_secrets_that_it_needs_and_no_others(pipeline: Compiled, step: str, secrets: set[str]) -> None:
    task = pipeline.tasks[step]
    assert set(task.secrets) == secrets
    assert all(s["optional"] for s in task.platform.get("secretAsEnv", []))


def test_no_variable_comes_from_two_secrets() -> None:
    tasks = compiled("build_and_publish", secrets=("HF_TOKEN", "MY_TOKEN")).tasks
    for task in tasks.values():
        keys = [key for found in task.secrets.values() for key in found]
        assert len(keys) == len(set(keys)), task.name
    assert tasks["download"].secrets["recipe_secret"] == {"MY_TOKEN"}


def test_nothing_compiled_holds_a_secrets_value(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: f"not-to-be-seen-{i}" for i, name in enumerate(("HF_TOKEN", "NGC_API_KEY", "AWS_SECRET_ACCESS_KEY", "MINE"))}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    text = compile_pipeline("rebuild_on_new_checkpoints", CompileOptions(image=IMAGE, secrets=("MINE",)))
    assert "not-to-be-seen" not in text
    assert "MINE" in text


def test_steps_are_tried_again_and_know_their_cluster(build: Compiled) -> None:
    for task in build.tasks.values():
        assert task.spec["retryPolicy"]["maxRetryCount"] == 2
        known = json.loads(task.env["ENGINEPRESS_CLUSTER"])
        assert known["workspace"] == "/workspace"
        assert known["mounts"] == ["/mnt/models"]
        assert known["scratch"] == 200 * 2**30


def test_a_disconnected_site_is_told_to_every_step() -> None:
    site = compiled(
        "rebuild_on_new_checkpoints",
        image_prefix="mirror.site/apps",
        pull_secrets=("mirror-pull",),
        https_proxy="http://proxy.site:3128",
        no_proxy=".svc,.site",
        ca_config_map="site-ca",
        queue="gpu-builds",
        priority="low",
    )
    assert site.parameters["image"]["defaultValue"] == "mirror.site/apps/" + IMAGE.partition("/")[2]
    for task in site.tasks.values():
        assert task.env["HTTPS_PROXY"] == task.env["https_proxy"] == "http://proxy.site:3128"
        past_it = "localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local,.kubeflow,.site"
        assert task.env["NO_PROXY"] == task.env["no_proxy"] == past_it, "Kubeflow's launcher has the same variables"
        assert task.env["SSL_CERT_FILE"] == "/etc/enginepress-ca/ca-bundle.crt"
        maps = [
            m["configMapNameParameter"]["runtimeValue"]["constant"]
            for m in task.platform["configMapAsVolume"]
            if "runtimeValue" in m["configMapNameParameter"]
        ]
        assert maps == ["site-ca"]
        (pull,) = task.platform["imagePullSecret"]
        assert pull["secretName"] == "mirror-pull"
        assert task.platform["podMetadata"]["labels"] == {
            "app.kubernetes.io/name": "enginepress",
            "app.kubernetes.io/component": task.name,
            "kueue.x-k8s.io/queue-name": "gpu-builds",
            "kueue.x-k8s.io/priority-class": "low",
        }


def test_rebuilds_fan_out_over_the_nested_pipeline_a_few_at_a_time() -> None:
    rebuild = compiled("rebuild_on_new_checkpoints", parallelism=3)
    (loop,) = [
        task
        for component in rebuild.pipeline["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]
    assert loop["iteratorPolicy"] == {"parallelismLimit": 3}
    assert "dag" in rebuild.pipeline["components"]["comp-build-and-publish"], "the nested pipeline is a DAG of its own"
    found = rebuild.tasks["find-changed"]
    (volume,) = found.platform["configMapAsVolume"]
    assert volume["mountPath"] == "/recipes"
    assert "/mnt/models" in found.pvc_mounts


def test_a_rebuild_concludes_when_every_build_has_ended_and_says_no_at_once() -> None:
    rebuild = compiled("rebuild_on_new_checkpoints")
    conclude = rebuild.tasks["conclude"]
    dags = [component["dag"]["tasks"] for component in rebuild.pipeline["components"].values() if "dag" in component]
    tasks = {name: task for dag in dags for name, task in dag.items()}
    (loop,) = (name for name, task in tasks.items() if "parameterIterator" in task)
    assert conclude.spec["dependentTasks"] == [loop]
    assert "triggerPolicy" not in conclude.spec, "where a build has failed, the run ends badly by itself"
    assert "retryPolicy" not in conclude.spec
    assert tasks["find-changed"]["retryPolicy"]["maxRetryCount"] == 2
    assert conclude.secrets == {}
    assert set(conclude.pvc_mounts) == {"/workspace"}


def test_what_failed_before_is_tried_at_once_by_a_parameter_of_the_run() -> None:
    rebuild = compiled("rebuild_on_new_checkpoints")
    assert rebuild.parameters["retry_failed"]["defaultValue"] is False
    given = rebuild.tasks["find-changed"].spec["inputs"]["parameters"]["retry_failed"]
    assert given == {"componentInputParameter": "pipelinechannel--retry_failed"}


def test_recipes_to_watch_may_lie_on_a_volume() -> None:
    found = compiled("rebuild_on_new_checkpoints", recipes="pvc").tasks["find-changed"]
    assert found.pvc_mounts["/recipes"] == "recipes"
    assert "configMapAsVolume" not in found.platform


def test_more_volumes_are_mounted_where_files_are_read_or_written() -> None:
    tasks = compiled("build_and_publish", mounts=(Mount("checkpoints", "/mnt/checkpoints"),), store=None).tasks
    assert tasks["download"].pvc_mounts["/mnt/checkpoints"] == "checkpoints"
    assert "/mnt/models" not in tasks["publish"].pvc_mounts
    assert "/mnt/checkpoints" not in tasks["report"].pvc_mounts


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workspace": "workspace"}, "is no mount path"),
        ({"workspace": "/"}, "is no mount path"),
        ({"workspace": "/a/../b"}, "is no mount path"),
        ({"store": "/workspace"}, "two volumes at one path"),
        ({"store": "/workspace/store"}, "inside"),
        ({"store": "/tmp/store"}, "belongs to the system"),
        ({"scratch": "lots"}, "is no size"),
        ({"shared_memory": "0Gi"}, "is no size"),
        ({"secrets": ("A-B",)}, "is no name of an environment variable"),
        ({"pull_secrets": ("UPPER",)}, "is no name of a Kubernetes object"),
        ({"queue": "two words"}, "is no value of a label"),
        ({"parallelism": 0}, "--parallelism: is 1 to 1000"),
        ({"parallelism": 10**20}, "--parallelism: is 1 to 1000"),
        ({"retries": 10**10}, "--retries: is 0 to 100"),
        ({"timeout_h": float("nan")}, "--timeout-h: is hours, from a second to a year"),
        ({"timeout_h": float("inf")}, "--timeout-h: is hours, from a second to a year"),
        ({"timeout_h": 0.0001}, "--timeout-h: is hours, from a second to a year"),
        ({"scratch": "9" * 400 + "Ti"}, "is no size"),
        ({"workspace": "/work space"}, "is no mount path"),
        ({"mounts": (Mount("data", "/data:ro"),)}, "is no mount path"),
        ({"image": "two words"}, "is no name of an image"),
        ({"image_prefix": "https://mirror.site"}, "without https://"),
        ({"scratch_class": "Fast"}, "is no name of a storage class"),
        ({"https_proxy": "proxy.site"}, "is no address of a proxy"),
        ({"https_proxy": "http://me:secret@proxy:3128"}, "holds no secret"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        CompileOptions(**{"image": IMAGE, **options})
    assert says in f"{caught.value} {caught.value.fix}"


@pytest.mark.parametrize(
    ("image", "there"),
    [
        ("nvcr.io/nvidia/tritonserver:26.07-py3", "m.site/x/nvidia/tritonserver:26.07-py3"),
        ("localhost:5000/a@sha256:00", "m.site/x/a@sha256:00"),
        ("team/enginepress:1", "m.site/x/team/enginepress:1"),
    ],
)
def test_a_mirror_stands_in_for_a_registry(image: str, there: str) -> None:
    assert mirrored(image, "m.site/x/") == there
    assert mirrored(there, "m.site/x") == there, "what was replaced once stays"
    assert mirrored(image, "") == image
