"""What convert, build and verify ask for, from the plan; what a compiled pipeline cannot give is refused before a download."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enginepress.cluster import Cluster
from enginepress.compile_options import bytes_of
from enginepress.engines.fit.gpu_plan import FitPlan
from enginepress.errors import RecipeError, UsageError, WorkspaceError
from enginepress.recipe import Recipe
from enginepress.steps.job import Plan
from enginepress.steps.pod_needs import PRODUCT, check_disk, plan_for_pods, pods_of
from enginepress.steps.pods import Pod, Wishes, check_compiled

GIB = 2**30
CLUSTER = Cluster("/workspace", ("/mnt/models",), scratch=200 * GIB, shared_memory=16 * GIB, secrets=("HF_TOKEN",))
WISHES = Wishes(image="site/light@sha256:1", gpu_image="site/trtllm@sha256:2")
PLAN = Plan("run", "revision", "commit", "engine", "build", "checks", 0)
LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
BYTES = 16_060_000_000


def _recipe(builder: str = "tensorrt_llm", *, gpu: Any = "H100-SXM5-80GB", checks: Any = None, **engine: Any) -> Recipe:
    wanted = {"builder": builder, "limits": {"max_batch_size": 8, "max_sequence_length": 4096}, **engine}
    if gpu is not None:
        wanted["gpu"] = gpu if isinstance(gpu, dict) else {"name": gpu}
    wanted.setdefault("precision", "bfloat16" if gpu is not None else "float32")
    return Recipe.model_validate(
        {
            "name": "llama",
            "source": "hf://meta-llama/Llama-3.1-8B@main",
            "engine": wanted,
            "stores": ["file:///mnt/models"],
            **({"checks": checks} if checks else {}),
        }
    )


def _pods(recipe: Recipe, *, plan: Plan = PLAN, wishes: Wishes = WISHES, cluster: Cluster = CLUSTER, gated: bool = False) -> Any:
    found = plan_for_pods(recipe, LLAMA_8B, BYTES)
    return pods_of(recipe, plan, cluster, wishes, found, gated=gated)


def _products(pod: Pod) -> list[str]:
    (term,) = pod.affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return next(e["values"] for e in term["matchExpressions"] if e["key"] == PRODUCT)


def test_they_land_on_the_recipes_gpu_in_the_image_that_serves() -> None:
    for pod in _pods(_recipe()).values():
        assert pod.image == "site/trtllm@sha256:2"
        assert (pod.gpu_resource, pod.gpu_count) == ("nvidia.com/gpu", "1")
        assert "NVIDIA-H100-80GB-HBM3" in _products(pod)


def test_the_recipes_own_image_goes_before_that_of_the_run() -> None:
    pods = _pods(_recipe(image="nvcr.io/site/own@sha256:3"), cluster=replace(CLUSTER, image_prefix="mirror.site"))
    assert {pod.image for pod in pods.values()} == {"mirror.site/site/own@sha256:3"}


def test_memory_comes_from_the_plan() -> None:
    recipe = _recipe()
    found = plan_for_pods(recipe, LLAMA_8B, BYTES)
    pods = _pods(recipe)
    assert bytes_of(pods["convert"].memory, where="") >= found.host.convert_memory
    assert bytes_of(pods["build"].memory, where="") >= found.host.build_memory
    assert bytes_of(pods["verify"].memory, where="") >= BYTES, "weights pass through host memory"
    larger = plan_for_pods(recipe, {**LLAMA_8B, "num_hidden_layers": 64}, 2 * BYTES)
    more = pods_of(recipe, PLAN, CLUSTER, WISHES, larger, gated=False)
    assert all(bytes_of(more[s].memory, where="") > bytes_of(pods[s].memory, where="") for s in pods)


def test_several_gpus_are_asked_for_as_the_recipe_spreads_the_model() -> None:
    recipe = _recipe(gpu={"name": "H100-SXM5-80GB", "count": 4}, parallelism={"tensor": 4})
    pods = _pods(recipe)
    assert [pods[s].gpu_count for s in ("convert", "build", "verify")] == ["1", "4", "4"]
    assert _pods(recipe, wishes=replace(WISHES, gpu_count=8))["verify"].gpu_count == "8"
    for too_few in (1, 3, -1):
        with pytest.raises(UsageError, match="and the recipe takes 4") as caught:
            _pods(recipe, wishes=replace(WISHES, gpu_count=too_few))
        assert "gpu_count=4" in str(caught.value.fix)


def test_a_builder_for_cpus_asks_for_no_gpu_and_no_node() -> None:
    for pod in _pods(_recipe("onnxruntime", gpu=None)).values():
        assert (pod.image, pod.gpu_resource, pod.gpu_count, pod.affinity) == ("site/light@sha256:1", "", "0", {})


def test_a_step_that_passes_through_asks_for_nothing() -> None:
    pods = _pods(_recipe("vllm"))
    light = Pod("site/light@sha256:1")
    assert pods["convert"] == pods["build"] == light
    assert pods["verify"].gpu_count == "1"
    assert _pods(_recipe(checks={"served": False}))["verify"] == light


def test_a_release_that_is_there_asks_for_a_gpu_for_its_gate_only() -> None:
    light = Pod("site/light@sha256:1")
    again = _pods(_recipe(), plan=replace(PLAN, release=7))
    assert again["convert"] == again["build"] == light
    assert again["verify"].gpu_count == "1"
    gated = _pods(_recipe(), plan=replace(PLAN, release=7), gated=True)
    assert all(pod == light for pod in gated.values())


def test_modelopt_converts_without_a_gpu_on_that_gpus_node() -> None:
    convert = _pods(_recipe(precision="fp8", converter="modelopt"))["convert"]
    assert (convert.gpu_resource, convert.gpu_count) == ("", "0")
    assert "NVIDIA-H100-80GB-HBM3" in _products(convert)


def test_a_mig_profile_is_asked_for_by_name_where_it_is_a_resource_of_its_own() -> None:
    recipe = _recipe(gpu="H100-SXM5-80GB-MIG-3g.40gb", limits={"max_batch_size": 1, "max_sequence_length": 1024})
    single = _pods(recipe)["build"]
    assert single.gpu_resource == "nvidia.com/gpu"
    assert "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb" in _products(single)
    mixed = _pods(recipe, wishes=replace(WISHES, gpu_resource="nvidia.com/mig-3g.40gb"))["build"]
    assert mixed.gpu_resource == "nvidia.com/mig-3g.40gb"
    assert "NVIDIA-H100-80GB-HBM3" in _products(mixed)
    for wrong, asked in ((recipe, "nvidia.com/mig-1g.10gb"), (_recipe(), "nvidia.com/mig-3g.40gb")):
        with pytest.raises(RecipeError, match="but the run asks for") as caught:
            _pods(wrong, wishes=replace(WISHES, gpu_resource=asked))
        assert caught.value.fix


def test_more_labels_of_a_node_can_be_demanded() -> None:
    pod = _pods(_recipe(), wishes=replace(WISHES, gpu_nodes={"pool": "builds"}))["build"]
    (term,) = pod.affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {"key": "pool", "operator": "In", "values": ["builds"]} in term["matchExpressions"]


@pytest.mark.parametrize(
    ("cluster", "says", "fix"),
    [
        (replace(CLUSTER, scratch=4 * GIB), "needs .* of scratch", "--scratch"),
        (replace(CLUSTER, shared_memory=2**20), "of shared memory", "--shared-memory"),
    ],
)
def test_what_was_compiled_too_small_is_refused(cluster: Cluster, says: str, fix: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        _pods(_recipe(), cluster=cluster)
    assert fix in (caught.value.fix or "")


def test_a_workspace_without_room_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan_for_pods(_recipe(), LLAMA_8B, BYTES)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": GIB})())
    with pytest.raises(WorkspaceError, match=r"more are needed, 1\.00 GiB are free"):
        check_disk(replace(CLUSTER, workspace=str(tmp_path)), found, there=0)
    assert isinstance(found, FitPlan)
    check_disk(replace(CLUSTER, workspace=str(tmp_path)), found, there=found.host.disk)  # it was all there: a run goes on


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stores": ["file:///srv/models"]}, "lies on no volume"),
        ({"source": "file:///mnt/modelsother/x"}, "lies on no volume"),
        ({"source": {"uri": "hf://a/b", "token": "${OWN}"}}, "names the secret OWN"),
    ],
)
def test_what_the_steps_would_not_see_is_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str) -> None:
    recipe = Recipe.model_validate({**_recipe().canonical(), **changes})
    check_compiled(recipe)  # on this machine everything is seen
    monkeypatch.delenv("ENGINEPRESS_WORKSPACE", raising=False)
    monkeypatch.setenv("ENGINEPRESS_CLUSTER", CLUSTER.to_json())
    with pytest.raises(RecipeError, match=says) as caught:
        check_compiled(recipe)
    assert "compile the pipeline" in (caught.value.fix or "")
    check_compiled(_recipe())


def test_settings_of_a_cluster_travel_in_one_variable_and_yield_to_a_workspace_that_was_named() -> None:
    text = CLUSTER.to_json()
    assert "{{" not in text, "Argo would take it for a template"
    assert Cluster.from_environment({"ENGINEPRESS_CLUSTER": text}) == CLUSTER
    assert Cluster.from_environment({"ENGINEPRESS_CLUSTER": text, "ENGINEPRESS_WORKSPACE": "/here"}) is None
    assert Cluster.from_environment({}) is None
    with pytest.raises(WorkspaceError, match="cannot be read"):
        Cluster.from_environment({"ENGINEPRESS_CLUSTER": "{}"})
