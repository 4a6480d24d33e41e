"""Kubeflow component for the step `publish`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish(
    recipe: str,
    recipe_digest: str,
    plan: str,
    summary: dsl.Output[dsl.Markdown],
    release: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """An immutable, numbered release in every store of the recipe.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        plan: What resolve returned.
        summary: What Kubeflow shows.
        release: Where the release lies, its engine, and its checkpoint's revision; not its bytes.
        metrics: Its number and bytes.

    Returns:
        A few facts about what was done, as JSON.
    """
    from enginepress.steps.task import step_task

    return step_task("publish", recipe, recipe_digest, plan, summary=summary, release=release, metrics=metrics)
