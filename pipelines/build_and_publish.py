"""The pipeline that builds and publishes one recipe: on a laptop by kfp's local runner, on a cluster by Kubeflow Pipelines.

    resolve ─► download ─► convert ─► build ─► assemble ─► verify ─► publish ─► register ─► promote

Wiring only: what a step does stands in `enginepress.steps`, what it gets of a cluster in `settings`.
"""

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
from enginepress.components.resolve import resolve
from enginepress.components.verify import verify


def build_and_publish(options: CompileOptions) -> Any:
    """The pipeline, with what is fixed when it is compiled."""

    @dsl.pipeline(name="build-and-publish", description="One recipe in; a gated, published, registered Triton release out.")
    def pipeline(recipe: str, recipe_digest: str = "", force: bool = False) -> str:
        """Builds and publishes one recipe.

        Args:
            recipe: The recipe as canonical JSON (`enginepress.recipe_file.travelling_json`).
            recipe_digest: sha256 of that JSON; empty for no check.
            force: Build and gate again even if that was done.

        Returns:
            What promote said: the release and the channels that were moved, as JSON.
        """
        # Caching is off: a step finds out by itself, from content, what is there already, and "which revision is newest" must
        # be asked anew each time.
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        plan = resolve(recipe=recipe, recipe_digest=recipe_digest, run=run, force=force).set_caching_options(False).output
        before = None
        for step in (download, convert, build, assemble, verify, publish, register, promote):
            task = step(recipe=recipe, recipe_digest=recipe_digest, plan=plan).set_caching_options(False)
            if before is not None:
                task.after(before)
            before = task
        assert before is not None
        return before.output

    return pipeline
