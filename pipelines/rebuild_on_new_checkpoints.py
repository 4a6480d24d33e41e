"""The pipeline that a schedule runs: looks which recipes of a folder have something new, and builds those.

    find_changed ─► build_and_publish for each that is to be built, a few at a time ─► conclude

Each asks its source what it has now; a recipe, container or template that has changed is noticed as well. What is built goes to
the channel `candidate`, whatever channels a recipe names. One recipe's failure does not touch the others; the run as a whole ends
badly if one is not well.
"""

import contextlib
from typing import Any

from kfp import dsl, kubernetes

from enginepress.compile_options import CompileOptions
from enginepress.components.conclude import conclude
from enginepress.components.find_changed import find_changed
from enginepress.components.report import report
from enginepress.pipelines.build_and_publish import GPU_TAINT, build_and_publish
from enginepress.pipelines.settings import Parameters, image_of, settle


def rebuild_on_new_checkpoints(options: CompileOptions) -> Any:
    """The pipeline, with what is fixed when it is compiled."""
    build = build_and_publish(options, nested=True)

    @dsl.pipeline(name="rebuild-on-new-checkpoints", description="Builds recipes whose checkpoints, images or templates moved.")
    def pipeline(
        recipes: str = "enginepress-recipes",
        retry_failed: bool = False,
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
        """Builds the recipes of a folder that have something new.

        Args:
            recipes: The ConfigMap or PVC that holds the recipes; which of both was fixed when this was compiled.
            retry_failed: Build at once, too, what failed before and is held back.
            image: See build_and_publish, also for what follows.
            gpu_image: Image of convert, build and verify.
            workspace_pvc: PVC with downloads, engines and reports.
            store_pvc: PVC with the releases.
            gpu_resource: What is asked for by its name in Kubernetes.
            gpu_count: How many; 0 for what a recipe says.
            node_selector: Labels that the node of every step must have.
            gpu_node_selector: Labels that a GPU's node must have beside its product.
            tolerations: Taints that every step tolerates.
            gpu_tolerations: Taints that convert, build and verify tolerate as well.
            source_secret: Secret with HF_TOKEN and NGC_API_KEY.
            s3_secret: Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
            registry_secret: Secret with what MLflow asks for.
            recipe_secret: Secret with the variables that recipes name themselves.
            registry: MLflow tracking URI for recipes that name none.
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
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        reporting: Any = contextlib.nullcontext()
        if options.report:
            reporting = dsl.ExitHandler(settle(report(run=run), "report", options, parameters))
        with reporting:
            asked = find_changed(folder=options.recipes_path, run=run, retry_failed=retry_failed)
            found = settle(asked, "find_changed", options, parameters)
            if options.recipes == "pvc":
                kubernetes.mount_pvc(found, pvc_name=recipes, mount_path=options.recipes_path)
            else:
                kubernetes.use_config_map_as_volume(found, recipes, mount_path=options.recipes_path)
            with dsl.ParallelFor(found.outputs["Output"], parallelism=options.parallelism) as one:
                built = build(
                    recipe=one.recipe,
                    recipe_digest=one.recipe_digest,
                    image=image,
                    gpu_image=gpu_image,
                    workspace_pvc=workspace_pvc,
                    store_pvc=store_pvc,
                    gpu_resource=gpu_resource,
                    gpu_count=gpu_count,
                    node_selector=node_selector,
                    gpu_node_selector=gpu_node_selector,
                    tolerations=tolerations,
                    gpu_tolerations=gpu_tolerations,
                    source_secret=source_secret,
                    s3_secret=s3_secret,
                    registry_secret=registry_secret,
                    recipe_secret=recipe_secret,
                    registry=registry,
                )
            settle(conclude(run=run), "conclude", options, parameters).after(built)

    return pipeline
