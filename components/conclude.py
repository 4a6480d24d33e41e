"""Kubeflow component for the last step of a scheduled rebuild."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def conclude(run: str, summary: dsl.Output[dsl.Markdown]) -> None:
    """Fails if a recipe could not be looked at, or is held back since it failed before, so that the run as a whole says so.

    Args:
        run: Names this run in the workspace.
        summary: What Kubeflow shows.
    """
    from enginepress.steps.task import conclude_task

    conclude_task(run, summary=summary.path)
