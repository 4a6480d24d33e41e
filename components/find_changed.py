"""Kubeflow component for the first step of a scheduled rebuild."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_changed(folder: str, run: str, summary: dsl.Output[dsl.Markdown], retry_failed: bool = False) -> list:
    """Which recipes of a folder are to be built: their source has moved, or the recipe, its container or template has changed.

    Args:
        folder: Where the recipes are mounted.
        run: Names this run in the workspace.
        summary: What Kubeflow shows.
        retry_failed: Also what failed before and is held back.

    Returns:
        Of each recipe that is to be built the parameters `recipe` and `recipe_digest`. How all of them stand is kept in the
        workspace, and told by the exit handler.
    """
    from enginepress.steps.task import find_changed_task

    return find_changed_task(folder, run, retry_failed, summary=summary.path)
