"""Kubeflow component for the step `build`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def build(
    recipe: str,
    recipe_digest: str,
    plan: str,
    summary: dsl.Output[dsl.Markdown],
    engine: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """The engine, by the recipe's builder.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        plan: What resolve returned.
        summary: What Kubeflow shows.
        engine: Where the engine lies, and what it was made of; not its bytes.
        metrics: Seconds and bytes.

    Returns:
        A few facts about what was done, as JSON.
    """
    from enginepress.steps.task import step_task

    return step_task("build", recipe, recipe_digest, plan, summary=summary, engine=engine, metrics=metrics)
