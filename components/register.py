"""Kubeflow component for the step `register`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    recipe: str,
    recipe_digest: str,
    plan: str,
    summary: dsl.Output[dsl.Markdown],
) -> str:
    """The release as a version of the MLflow model.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        plan: What resolve returned.
        summary: What Kubeflow shows.

    Returns:
        A few facts about what was done, as JSON.
    """
    from enginepress.steps.task import step_task

    return step_task("register", recipe, recipe_digest, plan, summary=summary)
