"""Kubeflow component for the exit handler."""

from kfp import dsl

from enginepress.components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    run: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
    failed_gate: dsl.Output[dsl.HTML],
) -> None:
    """How a run ended, step by step, whatever happened to it; removes what killed runs left in the workspace.

    Args:
        run: Names the run in the workspace.
        status: How Kubeflow says that it ended.
        summary: What Kubeflow shows.
        failed_gate: The report of a gate that said no: of a step that failed itself, Kubeflow shows nothing.
    """
    from enginepress.steps.task import report_task

    report_task(run, status.state, status.error_message, summary=summary.path, failed_gate=failed_gate.path)
