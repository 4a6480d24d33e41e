"""What the pods of convert, build and verify ask a cluster for: image, processors, memory, GPUs, node.

A step that has nothing to do, since its output or the release is there or its builder passes through, asks for no GPU and no
special node, and runs in the light image. What Kubeflow has fixed when the pipeline was compiled (mounts, shared memory, scratch,
names of secrets) is compared with what the recipe needs, before anything is downloaded. How much is needed: `steps.pod_needs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enginepress.cluster import Cluster
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.steps.job import Job, Plan

GPU_STEPS = ("convert", "build", "verify")
WHOLE_GPU = "nvidia.com/gpu"
LIGHT_BYTES = 2 * 2**30
"""Memory of a step that has nothing to do."""


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


def pods_for(job: Job, plan: Plan, wishes: Wishes) -> dict[str, Pod]:
    """What convert, build and verify ask for. On this machine, where nothing is asked of anybody, all the same.

    Raises:
        RecipeError, WorkspaceError: for what the cluster, as the pipeline was compiled for it, cannot give.
    """
    cluster = Cluster.from_environment()
    if cluster is None:
        return light_pods(wishes)
    # Here: a run on this machine needs none of it.
    from enginepress.steps.pod_needs import needed_pods

    return needed_pods(job, plan, cluster, wishes)


def light_pods(wishes: Wishes) -> dict[str, Pod]:
    return {step: Pod(wishes.image) for step in GPU_STEPS}


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
