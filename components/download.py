"""Kubeflow component for the step `download`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def download(
    recipe: str,
    recipe_digest: str,
    plan: str,
    summary: dsl.Output[dsl.Markdown],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """The checkpoint of the plan's revision into the workspace, every file verified while it arrives.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        plan: What resolve returned.
        summary: What Kubeflow shows.
        checkpoint: Where the checkpoint lies, and its revision; not its bytes.
        metrics: Seconds and bytes.

    Returns:
        A few facts about what was done, as JSON.
    """
    from enginepress.steps.task import step_task

    return step_task("download", recipe, recipe_digest, plan, summary=summary, checkpoint=checkpoint, metrics=metrics)
