"""What changes while one looks at it: one output that is updated in place in a notebook, lines on standard error elsewhere."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import Any, Protocol

EVERY_SECONDS = 0.25
"""Between two updates of an output."""

LINE_SECONDS = 30.0
"""Outside a notebook, a step that takes long says so often how far it is."""


class View(Protocol):
    """What is shown: HTML in a notebook; its lines elsewhere."""

    @property
    def is_started(self) -> bool:
        """Whether there is anything to show."""

    def _repr_html_(self) -> str: ...

    def news(self) -> list[tuple[str, str, str]]:
        """Step, status and words of each step."""


def in_notebook() -> bool:
    """Whether a front end listens that shows HTML."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


class Live:
    """Shows a view and its changes. For several threads."""

    def __init__(self, view: View, *, wanted: bool = True) -> None:
        self._view = view
        self._wanted = wanted
        self._lock = threading.Lock()
        self._handle: Any = None
        self._shown = ""
        self._last = 0.0
        self._told: dict[str, str] = {}
        self._started = time.monotonic()

    def update(self, *, now: bool = False) -> None:
        """Shows what has changed; not too often, unless `now`."""
        if not self._wanted or not self._view.is_started:
            return
        with self._lock:
            moment = time.monotonic()
            if not in_notebook():
                self._print_lines(moment)
            elif now or moment - self._last >= EVERY_SECONDS:
                self._last = moment
                self._update_output()

    def _update_output(self) -> None:
        html = self._view._repr_html_()
        if html == self._shown:
            return
        display: Any = importlib.import_module("IPython.display").display
        self._shown = html
        data = {"text/html": html, "text/plain": repr(self._view)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _print_lines(self, moment: float) -> None:
        for step, status, words in self._view.news():
            if status == "waiting" or (status == "running" and (not words or moment - self._last < LINE_SECONDS)):
                continue
            if status != "running" and self._told.get(step) == status:
                continue
            self._told[step] = status
            self._last = moment
            line = f"{moment - self._started:6.1f} s  {step:<9} {status}" + (f"  {words}" if words else "")
            print(line, file=sys.stderr, flush=True)
