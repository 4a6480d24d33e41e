"""Kubeflow component for the step `resolve`."""

from typing import NamedTuple

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
    recipe: str,
    recipe_digest: str,
    run: str,
    force: bool,
    summary: dsl.Output[dsl.Markdown],
    image: str = "",
    gpu_image: str = "",
    gpu_resource: str = "nvidia.com/gpu",
    gpu_count: int = 0,
    gpu_node_selector: dict = {},  # noqa: B006 - a pipeline's default, never changed
    registry: str = "",
) -> NamedTuple(
    "Resolved",
    [
        ("plan", str),
        ("convert_image", str),
        ("convert_cpu", str),
        ("convert_memory", str),
        ("convert_gpu_resource", str),
        ("convert_gpu_count", str),
        ("convert_affinity", dict),
        ("build_image", str),
        ("build_cpu", str),
        ("build_memory", str),
        ("build_gpu_resource", str),
        ("build_gpu_count", str),
        ("build_affinity", dict),
        ("verify_image", str),
        ("verify_cpu", str),
        ("verify_memory", str),
        ("verify_gpu_resource", str),
        ("verify_gpu_count", str),
        ("verify_affinity", dict),
    ],
):
    """Which bytes, which build key, and whether that release exists already. Downloads no weights.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        run: Names this run in the workspace.
        force: Build and gate again even if that was done.
        summary: What Kubeflow shows.
        image: Image of steps that need no GPU.
        gpu_image: Image of convert, build and verify, if the recipe names none.
        gpu_resource: What is asked for by its name in Kubernetes, as nvidia.com/gpu or nvidia.com/mig-3g.40gb.
        gpu_count: How many; 0 for what the recipe says.
        gpu_node_selector: Labels that a GPU's node must have beside its product.
        registry: MLflow tracking URI for a recipe that names none.

    Returns:
        The plan as JSON, for all later steps, and what the pods of convert, build and verify ask for.
    """
    from enginepress.steps.task import resolve_task

    return resolve_task(
        recipe,
        recipe_digest,
        run,
        force,
        image,
        gpu_image,
        gpu_resource,
        gpu_count,
        gpu_node_selector,
        registry,
        summary=summary,
    )
