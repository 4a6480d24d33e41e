"""How much processor, memory, scratch and how many GPUs convert, build and verify need, from the plan, and on which nodes.

Memory and scratch are ESTIMATES, from those of `engines.fit`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.cluster import Cluster
from enginepress.compile_options import mirrored
from enginepress.engines import fit, get_builder, versions
from enginepress.engines.fit.cpu_plan import CpuPlan, cpu_plan
from enginepress.engines.fit.gpu_plan import FitPlan
from enginepress.engines.fit.host import PROCESS_BYTES
from enginepress.engines.gpus import Gpu
from enginepress.errors import RecipeError, UsageError, WorkspaceError
from enginepress.quantities import memory_text
from enginepress.recipe import Recipe
from enginepress.sources import Revision
from enginepress.sources.glance import QUANTIZATION, WEIGHTS
from enginepress.sources.model_config import model_settings
from enginepress.sources.open import open_source
from enginepress.steps.job import Job, Plan
from enginepress.steps.pods import LIGHT_BYTES, WHOLE_GPU, Pod, Wishes, light_pods
from enginepress.steps.scratch_output import LINKING
from enginepress.steps.verify import checks_record
from enginepress.stores.open import open_store

PRODUCT = "nvidia.com/gpu.product"
"""The label that NVIDIA's GPU feature discovery puts on a node."""

MIG = "nvidia.com/mig-"
GIB = 2**30

SPARE = 1.2
"""Of each estimate of memory and scratch: a pod that goes beyond its limit is killed."""

SHARED_BYTES = GIB
"""/dev/shm of one server: Triton's Python backend, and, on several GPUs, as much again for each rank's NCCL (NVIDIA's own command
lines give containers 1 to 2 GB)."""


@dataclass(frozen=True)
class Need:
    """What a step takes of a machine: bytes, and GPUs."""

    cpu: int
    memory: int
    scratch: int = 0
    shared: int = 0
    gpus: int = 0
    in_container: bool = True


def needed_pods(job: Job, plan: Plan, cluster: Cluster, wishes: Wishes) -> dict[str, Pod]:
    """See `pods.pods_for`."""
    primary = open_store(job.recipe.stores[0])
    gated = bool(plan.release) and primary.read_record(job.recipe.name, plan.release, checks_record(plan)) is not None
    found = None if gated else _sizes(job, plan)
    if found is not None and not plan.release:
        check_disk(cluster, found, there=_bytes_there(job, plan))
    return pods_of(job.recipe, plan, cluster, wishes, found, gated=gated)


def _bytes_there(job: Job, plan: Plan) -> int:
    """Of this plan's outputs, and of downloads that were begun."""
    total = 0
    for kind, key in plan.outputs().values():
        for folder in (job.workspace.path(kind, key), *job.workspace.path("partial").glob(f"{kind}-{key}-*")):
            total += sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    return total


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
        UsageError: if the run asks for fewer GPUs than the recipe takes.
    """
    needs = needs_of(recipe, found)
    if plan.release:
        needs = {"verify": needs["verify"]} if not gated and "verify" in needs else {}
    _check_scratch(needs, cluster)
    _check_count(needs, wishes)
    device = fit.gpu_and_container(recipe)[0] if recipe.engine.gpu is not None else None
    pods = light_pods(wishes)
    image = mirrored(recipe.engine.image or wishes.gpu_image, cluster.image_prefix) or wishes.image
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


def check_disk(cluster: Cluster, found: FitPlan | CpuPlan, *, there: int) -> None:
    """Raises WorkspaceError if the workspace has no room for checkpoint, converted checkpoint and engine.

    Args:
        there: bytes of them that are in the workspace already.
    """
    needed = (found.disk if isinstance(found, CpuPlan) else found.host.disk) - there
    free = shutil.disk_usage(Path(cluster.workspace)).free
    if free < needed:
        raise WorkspaceError(
            f"{memory_text(needed)} more are needed, {memory_text(free)} are free",
            where=cluster.workspace,
            fix="enlarge the workspace's PVC, or remove what is no longer needed from it: everything there can be made again",
        )


def _check_count(needs: Mapping[str, Need], wishes: Wishes) -> None:
    """Too few GPUs would be found out by the builder, or by the server, hours later."""
    most = max((need.gpus for need in needs.values()), default=0)
    if wishes.gpu_count and wishes.gpu_count < most:
        raise UsageError(
            f"the run asks for {wishes.gpu_count}, and the recipe takes {most}",
            where="gpu_count",
            fix=f"start the run with gpu_count={most}, or with 0, which says: as many as the recipe does",
        )


def _check_scratch(needs: Mapping[str, Need], cluster: Cluster) -> None:
    for step, need in needs.items():
        for what, wanted, given, option in (
            ("scratch", int(need.scratch * SPARE), cluster.scratch, "--scratch"),
            ("shared memory", need.shared, cluster.shared_memory, "--shared-memory"),
        ):
            if wanted > given:
                raise RecipeError(
                    f"{step} needs {memory_text(wanted)} of {what}, this pipeline was compiled with {memory_text(given)}",
                    where="engine",
                    fix=f"compile the pipeline with {option} {-(-wanted // GIB)}Gi or more",
                )
