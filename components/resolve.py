"""Kubeflow component for the step `resolve`."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(recipe: str, recipe_digest: str, run: str, force: bool) -> str:
    """Which bytes, which build key, and whether that release exists already. Downloads no weights.

    Args:
        recipe: The recipe as canonical JSON.
        recipe_digest: sha256 of that JSON; the task refuses a recipe that was changed on its way.
        run: Names this run in the workspace.
        force: Build and gate again even if that was done.

    Returns:
        The plan as JSON, for all later steps.
    """
    from enginepress.steps.task import resolve_task

    return resolve_task(recipe, recipe_digest, run, force)
