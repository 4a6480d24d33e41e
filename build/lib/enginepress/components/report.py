"""Kubeflow component for the exit handler."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(run: str, status: dsl.PipelineTaskFinalStatus, summary: dsl.Output[dsl.Markdown]) -> None:
    """How a run ended, step by step, whatever happened to it; removes what killed runs left in the workspace.

    Args:
        run: Names the run in the workspace.
        status: How Kubeflow says that it ended.
        summary: What the user interface shows.
    """
    from enginepress.steps.task import report_task

    text = report_task(run, status.state, status.error_message)
    with open(summary.path, "w", encoding="utf-8") as file:
        file.write(text)
