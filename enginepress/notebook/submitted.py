"""What `ep.submit` gives: a run on Kubeflow, followed from here. Interrupting the cell leaves the run as it is."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from enginepress.errors import BuildError, EnginepressError
from enginepress.notebook.display import Live
from enginepress.notebook.steps_view import StepsView
from enginepress.steps import STEPS

if TYPE_CHECKING:
    from enginepress.recipe import Recipe
    from enginepress.run.cluster import ClusterRun
    from enginepress.run.run_state import RunState

TICK_SECONDS = 0.2

_STATUS = {
    "SUCCEEDED": "done",
    "SKIPPED": "done",
    "FAILED": "failed",
    "CANCELED": "ended",
    "CANCELING": "running",
    "RUNNING": "running",
}


def tell(text: str) -> None:
    """Says what happens while a request is made: that it is tried again, that nothing could be planned here."""
    print(text, file=sys.stderr, flush=True)


class Submitted:
    """A run on Kubeflow.

    Attributes:
        run: the run, for what is not here.
        state: how it stood when it was last looked at; None before that.
        error: why it cannot be followed; None otherwise.
    """

    def __init__(self, recipe: Recipe, run: ClusterRun, *, progress: bool = True) -> None:
        self.run = run
        self.state: RunState | None = None
        self.error: EnginepressError | None = None
        self.steps = StepsView(recipe.name, STEPS, where=run.url)
        self.steps.state = "runs already" if run.found else "submitted"
        self._live = Live(self.steps, wanted=progress)
        self._tell = tell if progress else None
        self._live.update(now=True)
        self._thread: threading.Thread | None = None

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def url(self) -> str:
        """The run's page."""
        return self.run.url

    @property
    def report(self) -> str | None:
        """With which the run has ended, as Markdown: what each step did, and what to do about one that failed. None before, or
        if it cannot be had."""
        from enginepress.run.pod_logs import report_of

        if self.state is None or not self.state.ended:
            self.refresh()
        assert self.state is not None
        return report_of(self.run, self.state) if self.state.ended else None

    def refresh(self) -> Submitted:
        """Looks once how it stands."""
        self._note(self.run.state())
        return self

    def wait(self) -> Submitted:
        """Follows the run to its end, and shows how it goes. An interrupt ends the following; the run goes on.

        Raises:
            BuildError: if the run failed, naming the steps.
            ClusterError: if it cannot be followed.
        """
        thread = self._followed()
        while thread.is_alive():
            thread.join(TICK_SECONDS)
            self._live.update()
        return self._ended()

    def __await__(self) -> Generator[Any, None, Submitted]:
        return self._awaited().__await__()

    async def _awaited(self) -> Submitted:
        thread = self._followed()
        while thread.is_alive():
            await asyncio.sleep(TICK_SECONDS)
            self._live.update()
        return self._ended()

    def cancel(self) -> Submitted:
        """Asks Kubeflow to end it."""
        self._note(self.run.cancel())
        self._live.update(now=True)
        return self

    def _followed(self) -> threading.Thread:
        if self._thread is None or not self._thread.is_alive():
            self.error = None
            self._thread = threading.Thread(target=self._follow, name=f"follow {self.run.id}", daemon=True)
            self._thread.start()
        return self._thread

    def _follow(self) -> None:
        try:
            for state in self.run.progress(tell=self._tell):
                self._note(state)
        except EnginepressError as error:
            self.error = error

    def _note(self, state: RunState) -> None:
        self.state = state
        for step in state.steps:
            words = step.error or (f"{step.seconds:.1f} s" if step.seconds is not None else "")
            self.steps.follow(step.name, _STATUS.get(step.state, "waiting"), words)
        if state.ended:
            self.steps.end(state.state.lower())
        else:
            self.steps.state = state.state.lower()

    def _ended(self) -> Submitted:
        self._live.update(now=True)
        if self.error is not None:
            raise self.error
        assert self.state is not None
        if not self.state.good:
            steps = [f"{step.name}: {step.error or step.state.lower()}" for step in self.state.failed_steps]
            why = "; ".join(steps) or self.state.error
            raise BuildError(
                f"the run ended as {self.state.state.lower()}" + (f": {why}" if why else ""),
                where=self.url,
                fix="look at the failed step there; submitting again goes on where it stopped",
            )
        return self

    def __repr__(self) -> str:
        return f"{self.steps!r}\n  {self.url}"

    def _repr_html_(self) -> str:
        return self.steps._repr_html_()
