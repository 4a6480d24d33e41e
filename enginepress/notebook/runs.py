"""What `ep.run` gives: a run of a recipe on this machine, at work or ended.

The run is a process of its own (`run.apart`): it disturbs neither the kernel's event loop nor what other cells print, and it ends
when the kernel does. A thread follows it; what is shown is updated in place.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginepress.errors import EnginepressError, RunEndedError
from enginepress.notebook import html
from enginepress.notebook.display import Live
from enginepress.notebook.run_report import report_parts
from enginepress.notebook.steps_view import StepsView
from enginepress.report.html import safe_text
from enginepress.run.apart import RunApart
from enginepress.steps import STEPS

if TYPE_CHECKING:
    from enginepress.recipe import Recipe
    from enginepress.run.local import RunResult
    from enginepress.steps.report import Report
    from enginepress.workspace import Workspace

TICK_SECONDS = 0.1


class Run:
    """A run. Started by `ep.run`; `wait` or `await` it if it was started in the background, `stop` ends it.

    Attributes:
        recipe: what is built.
        workspace: where.
        result: how it ended: release, plan, seconds, steps; None while it works, and if it failed.
        error: why it failed; None otherwise.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace, *, force: bool = False, progress: bool = True) -> None:
        self.recipe = recipe
        self.workspace = workspace
        self.result: RunResult | None = None
        self.error: EnginepressError | None = None
        self.steps = StepsView(recipe.name, STEPS)
        self._live = Live(self.steps, wanted=progress)
        self._process = RunApart(recipe, workspace, force=force)
        self._thread = threading.Thread(target=self._follow, name=f"run {recipe.name}", daemon=True)
        self._thread.start()

    # At work ----------------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> Run:
        """Waits for the end, and shows how it goes. An interrupt (stop button, Ctrl-C) ends the run; what is finished is kept.

        Raises:
            EnginepressError: why it failed.
            KeyboardInterrupt: after the run has ended.
        """
        try:
            while self._thread.is_alive():
                self._thread.join(TICK_SECONDS)
                self._live.update()
        except BaseException:
            self.stop()
            raise
        return self._ended()

    def __await__(self) -> Generator[Any, None, Run]:
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        try:
            while self._thread.is_alive():
                await asyncio.sleep(TICK_SECONDS)
                self._live.update()
        except BaseException:
            self.stop()
            raise
        return self._ended()

    def show_in_background(self) -> Run:
        """Shows how it goes while other cells work."""

        def show() -> None:
            while self._thread.is_alive():
                self._thread.join(TICK_SECONDS)
                self._live.update()
            if self.result is not None and self.result.up_to_date:
                self.steps.end(f"up to date: release {self.result.release}")
            self._live.update(now=True)

        threading.Thread(target=show, name=f"show {self.recipe.name}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends the run, if it works; what is finished is kept. Returns when nothing of it runs any more."""
        self._process.end()
        self._thread.join()
        self._live.update(now=True)

    def _follow(self) -> None:
        try:
            with self._process:
                self.result = self._process.result(follow=self.steps.follow, on_wait=self._waiting)
            if not self.result.up_to_date:
                self.steps.end(f"done: release {self.result.release}")
            elif self.steps.state:  # it has waited for another run, which did the work
                self.steps.end(f"up to date: release {self.result.release}")
        except RunEndedError as error:
            self.error = error
            self.steps.end("ended; run it again to go on")
        except EnginepressError as error:
            self.error = error
            self.steps.end("failed")
        except Exception as error:
            self.error = EnginepressError(f"hit a bug: {type(error).__name__}: {error}", fix="please report it")
            self.steps.end("failed")

    def _waiting(self, holder: str) -> None:
        self.steps.state = f"waiting for {holder}"

    def _ended(self) -> Run:
        self._live.update(now=True)
        if self.error is not None:
            raise self.error
        return self

    # Ended ------------------------------------------------------------------------------------------------------------

    @property
    def release(self) -> int:
        """The release in the primary store.

        Raises:
            EnginepressError: why there is none.
        """
        if self.result is None:
            raise self.error or EnginepressError("the run has not ended yet", fix="wait for it: run.wait(), or await run")
        return self.result.release

    @property
    def report(self) -> Report | None:
        """What the gate found; None if there is no release, or it was not gated."""
        if self.result is None:
            return None
        from enginepress.steps.register import newest_report
        from enginepress.stores.open import open_store

        return newest_report(open_store(self.recipe.stores[0]), self.recipe.name, self.result.release)

    def report_file(self) -> Path | None:
        """The HTML report of the last gate in the workspace."""
        if self.result is None:
            return None
        plan = self.result.plan
        folder = self.workspace.path("reports", f"{plan.build_key}-{plan.checks_digest}")
        attempts = sorted(folder.glob("[0-9]*/report.html"), key=lambda p: int(p.parent.name))
        return attempts[-1] if attempts else None

    def __repr__(self) -> str:
        if self.result is None:
            return repr(self.steps)
        state = "up to date" if self.result.up_to_date else f"built in {self.result.seconds:.1f} s"
        lines = [f"{self.recipe.name} release {self.result.release}: {state}", *self.result.notes]
        if (report := self.report) is not None and report.gate is not None:
            passed = sum(check.passed for check in report.gate.checks)
            lines.append(f"{passed} of {len(report.gate.checks)} checks passed on Triton {report.gate.server_version}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if self.result is None:
            return self.steps._repr_html_()
        return html.card(*self._parts(self.result))

    def _parts(self, result: RunResult) -> list[str]:
        recipe, engine = self.recipe, self.recipe.engine
        state = "up to date" if result.up_to_date else f"built in {result.seconds:.1f} s"
        report = self.report
        passed = report is not None and report.passed
        mark, colour = ("passed", html.GREEN) if passed else ("not gated", html.AMBER)
        rows = [
            ("from", safe_text(f"{recipe.source.uri} at {result.plan.revision_id[:12]}")),
            ("by", safe_text(f"{engine.builder}, {engine.precision}")),
            ("store", safe_text(recipe.stores[0].url)),
            ("channels", "".join(html.pill(c, html.BLUE) for c in self._channels(result.release)) or html.soft("none")),
            ("build key", html.code(result.plan.build_key[:16])),
        ]
        links = []
        if (file := self.report_file()) is not None:
            links.append(html.link(os.path.relpath(file), "the whole report"))
        if page := self._registry_page():
            links.append(html.link(page, "MLflow"))
        if links:
            rows.append(("see", ", ".join(links)))
        parts = [html.title(f"{recipe.name} release {result.release}", state, mark, colour)]
        parts.append(html.table([(html.soft(name), cell) for name, cell in rows]))
        parts += [f'<div style="margin-top:6px">{html.coloured("note: ", html.AMBER)}{safe_text(n)}</div>' for n in result.notes]
        if report is not None:
            parts += report_parts(report)
        return parts

    def _channels(self, number: int) -> list[str]:
        from enginepress.stores.open import open_store

        channels = open_store(self.recipe.stores[0]).channels(self.recipe.name)
        return sorted(channel for channel, at in channels.items() if at == number)

    def _registry_page(self) -> str:
        """The model's page, where MLflow is a server."""
        from enginepress.mlflow_access import shown

        uri = shown(self.recipe.registry.tracking_uri or "")
        return f"{uri.rstrip('/')}/#/models/{self.recipe.name}" if uri.startswith(("http://", "https://")) else ""


def started(recipe: Recipe, workspace: Workspace, *, force: bool, background: bool, progress: bool) -> Run:
    """A run that has been started, and waited for unless it is for the background."""
    run = Run(recipe, workspace, force=force, progress=progress)
    return run.show_in_background() if background else run.wait()
