"""What the pods of convert, build and verify ask a cluster for, from the plan: image, processors, memory, GPUs, node.

A step that has nothing to do, since its output or the release is there or its builder passes through, asks for no GPU and no
special node, and runs in the light image. What Kubeflow has fixed when the pipeline was compiled (mounts, shared memory, scratch,
names of secrets) is compared with what the recipe needs, before anything is downloaded.

Memory and scratch are ESTIMATES, from those of `engines.fit`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginepress.cluster import Cluster
from enginepress.compile_options import mirrored
from enginepress.engines import fit, get_builder, versions
from enginepress.engines.fit.cpu_plan import CpuPlan, cpu_plan
from enginepress.engines.fit.gpu_plan import FitPlan
from enginepress.engines.fit.host import PROCESS_BYTES
from enginepress.engines.gpus import Gpu
from enginepress.errors import RecipeError, WorkspaceError
from enginepress.recipe import Recipe
from enginepress.sources import Revision
from enginepress.sources.glance import QUANTIZATION, WEIGHTS
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source
from enginepress.steps.job import Job, Plan
from enginepress.steps.scratch_output import LINKING
from enginepress.steps.verify import checks_record
from enginepress.stores.open import open_store

GPU_STEPS = ("convert", "build", "verify")
PRODUCT = "nvidia.com/gpu.product"
"""The label that NVIDIA's GPU feature discovery puts on a node."""

WHOLE_GPU = "nvidia.com/gpu"
MIG = "nvidia.com/mig-"
GIB = 2**30

SPARE = 1.2
"""Of each estimate of memory and scratch: a pod that goes beyond its limit is killed."""

LIGHT_BYTES = 2 * GIB
SHARED_BYTES = GIB
"""/dev/shm of one server: Triton's Python backend, and, on several GPUs, as much again for each rank's NCCL (NVIDIA's own command
lines give containers 1 to 2 GB)."""


@dataclass(frozen=True)
class Wishes:
    """What the run asks for, beyond the recipe.

    Attributes:
        image: in which light steps run, and the others if no other is named.
        gpu_image: for convert, build and verify, if the recipe names none.
        gpu_resource: Kubernetes' name of what is asked for: nvidia.com/gpu or nvidia.com/mig-3g.40gb.
        gpu_count: 0 for what the recipe says.
        gpu_nodes: labels that a GPU's node must have beside its product.
    """

    image: str = ""
    gpu_image: str = ""
    gpu_resource: str = WHOLE_GPU
    gpu_count: int = 0
    gpu_nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pod:
    """What one step's pod asks for. An empty `gpu_resource` asks for none.

    Attributes:
        cpu, memory: request and limit, as Kubernetes writes them.
        affinity: Kubernetes' NodeAffinity; empty if any node will do.
    """

    image: str
    cpu: str = "1"
    memory: str = f"{LIGHT_BYTES // 2**20}Mi"
    gpu_resource: str = ""
    gpu_count: str = "0"
    affinity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """What a step takes of a machine: bytes, and GPUs."""

    cpu: int
    memory: int
    scratch: int = 0
    shared: int = 0
    gpus: int = 0
    in_container: bool = True


def pods_for(job: Job, plan: Plan, wishes: Wishes) -> dict[str, Pod]:
    """What convert, build and verify ask for. On this machine, where nothing is asked of anybody, all the same.

    Raises:
        RecipeError, WorkspaceError: for what the cluster, as the pipeline was compiled for it, cannot give.
    """
    cluster = Cluster.from_environment()
    if cluster is None:
        return light_pods(wishes)
    primary = open_store(job.recipe.stores[0])
    gated = bool(plan.release) and primary.read_record(job.recipe.name, plan.release, checks_record(plan)) is not None
    found = None if gated else _sizes(job, plan)
    if found is not None and not plan.release:
        check_disk(cluster, found)
    return pods_of(job.recipe, plan, cluster, wishes, found, gated=gated)


def _sizes(job: Job, plan: Plan) -> FitPlan | CpuPlan:
    recipe, data = job.recipe, job.workspace.read_json("revisions", f"{plan.revision}.json")
    assert data is not None, "resolve leaves it there"
    revision = Revision.from_json(data)
    source, names = open_source(recipe.source, cache=job.workspace.path("cache")), {file.path for file in revision.files}
    config = model_settings(
        source.read(revision, "config.json"),
        source.read(revision, QUANTIZATION) if QUANTIZATION in names else None,
        where=recipe.source.uri.rstrip("/"),
    )
    return plan_for_pods(recipe, config, sum(file.size for file in revision.files if file.path.endswith(WEIGHTS)))


def light_pods(wishes: Wishes) -> dict[str, Pod]:
    return {step: Pod(wishes.image) for step in GPU_STEPS}


def pods_of(
    recipe: Recipe,
    plan: Plan,
    cluster: Cluster,
    wishes: Wishes,
    found: FitPlan | CpuPlan | None,
    *,
    gated: bool,
) -> dict[str, Pod]:
    """What convert, build and verify ask for. Pure.

    Args:
        found: sizes by which pods are cut; None if nothing is left to do.
        gated: the release was gated by these checks.

    Raises:
        RecipeError: for what the cluster, as the pipeline was compiled for it, cannot give.
    """
    needs = needs_of(recipe, found)
    if plan.release:
        needs = {"verify": needs["verify"]} if not gated and "verify" in needs else {}
    _check_scratch(needs, cluster)
    device = fit.gpu_and_container(recipe)[0] if recipe.engine.gpu is not None else None
    pods = light_pods(wishes)
    image = mirrored(recipe.engine.image or wishes.gpu_image or wishes.image, cluster.image_prefix)
    for step, need in needs.items():
        count = (wishes.gpu_count or need.gpus) if need.gpus else 0
        pods[step] = Pod(
            image=image if need.in_container else wishes.image,
            cpu=str(need.cpu),
            memory=f"{-(-int(need.memory * SPARE + need.shared) // 2**20)}Mi",
            gpu_resource=wishes.gpu_resource if count else "",
            gpu_count=str(count),
            affinity=_affinity(device, wishes) if device is not None and need.in_container else {},
        )
    return pods


def plan_for_pods(recipe: Recipe, config: Mapping[str, Any], weight_bytes: int | None) -> FitPlan | CpuPlan:
    """The sizes that pods are cut to. Pure; does not refuse what does not fit, which `fit.check` does."""
    if versions.load_matrix().kind(recipe.engine.builder) is None:
        return cpu_plan(config, weight_bytes, recipe)
    device, container = fit.gpu_and_container(recipe)
    return fit.plan(config, weight_bytes, recipe, device, container, changes=False)


def needs_of(recipe: Recipe, found: FitPlan | CpuPlan | None) -> dict[str, Need]:
    """What each step that has work takes, by its name."""
    if found is None:
        return {}
    if isinstance(found, CpuPlan):
        threads = recipe.serving.threads or 4
        needs = {"build": Need(4, found.build_memory, scratch=2 * found.engine, in_container=False)}
        if recipe.checks.served:
            needs["verify"] = Need(threads, found.serve_memory + LIGHT_BYTES, shared=SHARED_BYTES, in_container=False)
        return needs
    engine, host, world = recipe.engine, found.host, found.world_size
    here = engine.gpu.count if engine.gpu is not None else world
    needs = {}
    if get_builder(engine.builder).converts(recipe):
        by_tool = engine.converter == "modelopt"
        # NVIDIA's scripts load TensorRT-LLM, which does not load without a driver; only calibration works on GPUs.
        gpus = 0 if by_tool else here if host.convert_gpu_memory else 1
        scratch = 0 if engine.builder in LINKING else found.weights.ranks
        needs["convert"] = Need(8, host.convert_memory, scratch=scratch, gpus=gpus)
    if host.build_memory:
        needs["build"] = Need(4 * min(here, world), host.build_memory, scratch=found.weights.ranks, gpus=min(here, world))
    if recipe.checks.served:
        shared = SHARED_BYTES * (world + 1 if world > 1 else 1)
        # The ranks' weights pass through host memory while they load.
        memory = (world + 1) * PROCESS_BYTES + found.weights.ranks
        needs["verify"] = Need(4 + 2 * world, memory, shared=shared, gpus=min(here, world))
    return needs


def _affinity(device: Gpu, wishes: Wishes) -> dict[str, Any]:
    """Nodes with this GPU. Cut with MIG, a node names the whole GPU where Kubernetes knows each profile as a resource of its own
    (strategy mixed), and the profile where all instances are alike (strategy single)."""
    resource = wishes.gpu_resource
    labels = device.labels
    if resource.startswith(MIG):
        profile = device.name.partition("-MIG-")[2]
        if device.parent is None or resource.removeprefix(MIG) != profile.replace("+", "."):
            raise RecipeError(
                f"is {device.name}, but the run asks for {resource}",
                where="engine.gpu.name",
                fix=f"run it with gpu_resource={MIG + profile.replace('+', '.') if profile else WHOLE_GPU}, or name that profile",
            )
        labels = tuple(label.partition("-MIG-")[0] for label in labels)
    wanted = [{"key": PRODUCT, "operator": "In", "values": list(labels)}]
    wanted += [{"key": key, "operator": "In", "values": [str(value)]} for key, value in sorted(wishes.gpu_nodes.items())]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": wanted}]}}


# ------------------------------------------------------------------------------------------------------------------
# What was fixed when the pipeline was compiled
# ------------------------------------------------------------------------------------------------------------------


def check_compiled(recipe: Recipe) -> None:
    """Raises RecipeError if this pipeline's steps would not see a folder or a secret that the recipe names."""
    cluster = Cluster.from_environment()
    if cluster is None:
        return
    named = [("source.uri", recipe.source.uri)] + [(f"stores[{i}].url", s.url) for i, s in enumerate(recipe.stores)]
    if recipe.engine.calibration is not None:
        named.append(("engine.calibration.data", "file://" + recipe.engine.calibration.data))
    mounted = ", ".join((cluster.workspace, *cluster.mounts))
    for where, url in named:
        if url.startswith("file://") and not cluster.holds(url.removeprefix("file://")):
            raise RecipeError(
                f"{url} lies on no volume of this pipeline's steps; mounted are {mounted}",
                where=where,
                fix="name a folder under one of these, or compile the pipeline with --store-path PATH or --mount PVC:PATH",
            )
    unknown = sorted(recipe.secret_variables() - {*cluster.secrets})
    if unknown:
        raise RecipeError(
            f"names the secret {', '.join(unknown)}, which this pipeline's steps do not get",
            where="recipe",
            fix="compile the pipeline with " + " ".join(f"--secret {name}" for name in unknown),
        )


def check_disk(cluster: Cluster, found: FitPlan | CpuPlan) -> None:
    """Raises WorkspaceError if the workspace has no room for checkpoint, converted checkpoint and engine."""
    disk = found.disk if isinstance(found, CpuPlan) else found.host.disk
    free = shutil.disk_usage(Path(cluster.workspace)).free
    if free < disk:
        raise WorkspaceError(
            f"{disk / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB are free",
            where=cluster.workspace,
            fix="enlarge the workspace's PVC, or remove what is no longer needed from it: everything there can be made again",
        )


def _check_scratch(needs: Mapping[str, Need], cluster: Cluster) -> None:
    for step, need in needs.items():
        for what, wanted, given, option in (
            ("scratch", int(need.scratch * SPARE), cluster.scratch, "--scratch"),
            ("shared memory", need.shared, cluster.shared_memory, "--shared-memory"),
        ):
            if wanted > given:
                raise RecipeError(
                    f"{step} needs {wanted / GIB:.1f} GiB of {what}, this pipeline was compiled with {given / GIB:.1f} GiB",
                    where="engine",
                    fix=f"compile the pipeline with {option} {-(-wanted // GIB)}Gi or more",
                )
