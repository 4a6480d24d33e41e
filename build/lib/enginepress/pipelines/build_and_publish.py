"""The pipeline that builds and publishes one recipe: on a laptop by kfp's local runner, on a cluster by Kubeflow Pipelines.

    resolve ─► download ─► convert ─► build ─► assemble ─► verify ─► publish ─► register ─► promote

Wiring only: what a step does stands in `enginepress.steps`, what it gets of a cluster in `settings`.
"""

import contextlib
from typing import Any

from kfp import dsl

from enginepress.compile_options import CompileOptions
from enginepress.components.assemble import assemble
from enginepress.components.build import build
from enginepress.components.convert import convert
from enginepress.components.download import download
from enginepress.components.promote import promote
from enginepress.components.publish import publish
from enginepress.components.register import register
from enginepress.components.report import report
from enginepress.components.resolve import resolve
from enginepress.components.verify import verify
from enginepress.pipelines.settings import GPU_STEPS, Parameters, image_of, settle

POD = ("image", "cpu", "memory", "gpu_resource", "gpu_count", "affinity")
GPU_TAINT = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
STEPS = {s.name: s for s in (download, convert, build, assemble, verify, publish, register, promote)}


def build_and_publish(options: CompileOptions, *, nested: bool = False) -> Any:
    """The pipeline, with what is fixed when it is compiled.

    Args:
        nested: it is part of another pipeline, which reports.
    """

    @dsl.pipeline(name="build-and-publish", description="One recipe in; a gated, published, registered Triton release out.")
    def pipeline(
        recipe: str,
        recipe_digest: str = "",
        force: bool = False,
        image: str = image_of(options),
        gpu_image: str = "",
        workspace_pvc: str = "enginepress-workspace",
        store_pvc: str = "enginepress-store",
        gpu_resource: str = "nvidia.com/gpu",
        gpu_count: int = 0,
        node_selector: dict = {},  # noqa: B006 - a pipeline's default, never changed
        gpu_node_selector: dict = {},  # noqa: B006
        tolerations: list = [],  # noqa: B006
        gpu_tolerations: list = GPU_TAINT,
        source_secret: str = "enginepress-source",
        s3_secret: str = "enginepress-s3",
        registry_secret: str = "enginepress-registry",
        recipe_secret: str = "enginepress-recipe",
        registry: str = "",
    ) -> None:
        """Builds and publishes one recipe.

        Args:
            recipe: The recipe as canonical JSON (`enginepress.recipe_file.travelling_json`).
            recipe_digest: sha256 of that JSON; empty for no check.
            force: Build and gate again even if that was done.
            image: Image of steps that need no GPU.
            gpu_image: Image of convert, build and verify, if the recipe names none in engine.image; empty for `image`.
            workspace_pvc: PVC with downloads, engines and reports: RWX, or RWO with a node_selector that names one node.
            store_pvc: PVC with the releases, if a store of the recipe lies there.
            gpu_resource: What is asked for by its name in Kubernetes, as nvidia.com/gpu or nvidia.com/mig-3g.40gb.
            gpu_count: How many; 0 for what the recipe says.
            node_selector: Labels that the node of every step must have.
            gpu_node_selector: Labels that a GPU's node must have beside its product.
            tolerations: Taints that every step tolerates.
            gpu_tolerations: Taints that convert, build and verify tolerate as well.
            source_secret: Secret with HF_TOKEN and NGC_API_KEY. It and its keys may be missing, as with the others.
            s3_secret: Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
            registry_secret: Secret with MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN.
            recipe_secret: Secret with the variables that recipes name themselves, as ${NAME}.
            registry: MLflow tracking URI for a recipe that names none.
        """
        parameters = Parameters(
            image=image,
            workspace_pvc=workspace_pvc,
            store_pvc=store_pvc,
            node_selector=node_selector,
            tolerations=tolerations,
            gpu_tolerations=gpu_tolerations,
            source_secret=source_secret,
            s3_secret=s3_secret,
            registry_secret=registry_secret,
            recipe_secret=recipe_secret,
        )
        # A run's folder in the workspace. Caching is off everywhere: a step finds out by itself, from content, what is there
        # already, and "which revision is newest" must be asked anew each time.
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        reporting: Any = contextlib.nullcontext()
        if options.report and not nested:
            reporting = dsl.ExitHandler(settle(report(run=run), "report", options, parameters))
        with reporting:
            resolved = resolve(
                recipe=recipe,
                recipe_digest=recipe_digest,
                run=run,
                force=force,
                image=image,
                gpu_image=gpu_image,
                gpu_resource=gpu_resource,
                gpu_count=gpu_count,
                gpu_node_selector=gpu_node_selector,
                registry=registry,
            )
            before = settle(resolved, "resolve", options, parameters)
            for name, step in STEPS.items():
                task = step(recipe=recipe, recipe_digest=recipe_digest, plan=resolved.outputs["plan"])
                pod = {part: resolved.outputs[f"{name}_{part}"] for part in POD} if name in GPU_STEPS else None
                before = settle(task, name, options, parameters, pod).after(before)

    return pipeline
