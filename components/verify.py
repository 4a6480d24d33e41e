"""Kubeflow component for the step `verify`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def verify(
    recipe: str,
    recipe_digest: str,
    plan: str,
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Validates the repository offline, then serves it with the real Triton and holds it against the recipe's checks.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        plan: What resolve returned.
        summary: What Kubeflow shows.
        report: The gate's report.
        metrics: What the gate measured.

    Returns:
        A few facts about what was done, as JSON.
    """
    from enginepress.steps.task import step_task

    return step_task("verify", recipe, recipe_digest, plan, summary=summary, report=report, metrics=metrics)
