"""Runs a recipe in a process of its own, for whoever runs several at a time or may not be disturbed: the watcher, a notebook.

`run_recipe` changes the environment and the standard output of its process while it works, so a process has one run at a
time. The child takes the run's order on its standard input and tells how it goes, one JSON object a line:

    {"waiting": "a run of tiny (process 12 on host)"}
    {"step": "build", "status": "running", "text": ""}
    {"result": {…}}  or  {"error": {…}}

It ends when its parent does, however that ends, and it gets no signal of the parent's terminal or kernel: `end` ends it.

    python -m enginepress.run.apart < order
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from enginepress.errors import BuildError, EnginepressError, RunEndedError, error_from_json
from enginepress.process import die_with, identity
from enginepress.recipe import Recipe
from enginepress.recipe_file import check_secrets, recipe_from_json, travelling_json
from enginepress.run.local import Follow, RunResult, run_recipe
from enginepress.steps.job import Plan
from enginepress.unexplained import explain
from enginepress.workspace import Workspace

GRACE_SECONDS = 10.0
"""So long a run that is to end may take to remove its scratch folder and its locks."""


class RunApart:
    """One run. Starts at once; `result` follows it to its end. A context manager: leaving it ends what still runs.

    Args:
        force, wait: as of `run_recipe`.

    Raises:
        RecipeError: if an environment variable that the recipe names is not set.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace, *, force: bool = False, wait: bool = True) -> None:
        check_secrets(recipe)
        self._name = recipe.name
        self._lock = threading.Lock()
        self._ended = False
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the run is left
        order = {
            "recipe": travelling_json(recipe),
            "digest": recipe.digest(),
            "workspace": str(workspace.root.absolute()),
            "force": force,
            "wait": wait,
            "owner": identity(),
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", "enginepress.run.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            start_new_session=True,
            text=True,
        )
        assert self._child.stdin is not None
        try:
            with self._child.stdin as stream:
                json.dump(order, stream)
        except BrokenPipeError:
            pass  # it is gone already; `result` says what it printed

    def __enter__(self) -> RunApart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._printed.close()

    def result(self, *, follow: Follow | None = None, on_wait: Callable[[str], None] | None = None) -> RunResult:
        """Waits for the end. Called once.

        Args:
            follow, on_wait: as of `run_recipe`, called in this thread.

        Raises:
            RunEndedError: if `end` was called before it had finished.
            EnginepressError: what the run raised.
        """
        assert self._child.stdout is not None
        for line in self._child.stdout:
            said = json.loads(line)
            if "step" in said and follow is not None:
                follow(said["step"], said["status"], said["text"])
            elif "waiting" in said and on_wait is not None:
                on_wait(said["waiting"])
            elif "result" in said:
                self._child.wait()
                return result_from_json(said["result"])
            elif "error" in said:
                self._child.wait()
                raise error_from_json(said["error"])
        status = self._child.wait()
        if self._ended:
            raise RunEndedError(f"the run of {self._name} was ended before it had finished")
        raise BuildError(
            f"the process that ran {self._name} ended with status {status}; out of memory is the usual cause\n"
            + self._last_words(),
            fix="run the recipe again: finished steps are not repeated",
        )

    def end(self) -> None:
        """Ends the run, if it still runs; what is finished of it is kept. Returns when it has ended. For any thread."""
        with self._lock:
            if self._child.poll() is not None:
                return
            self._ended = True
            self._child.terminate()
            try:
                self._child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def _last_words(self) -> str:
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, size - 2000))
        return self._printed.read().decode(errors="replace").strip()


def result_to_json(result: RunResult) -> dict[str, Any]:
    return asdict(result)


def result_from_json(data: dict[str, Any]) -> RunResult:
    return RunResult(**{**data, "plan": Plan(**data["plan"])})


# The child ------------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    order = json.load(sys.stdin)
    die_with(order["owner"])
    signal.signal(signal.SIGTERM, _end)
    # What is printed must not come between what is said.
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        stream.write(json.dumps(what) + "\n")

    try:
        recipe = recipe_from_json(order["recipe"], order["digest"])
        result = run_recipe(
            recipe,
            Workspace(Path(order["workspace"])),
            force=order["force"],
            wait=order["wait"],
            on_wait=lambda holder: say(waiting=holder),
            follow=lambda step, status, text: say(step=step, status=status, text=text),
        )
    except EnginepressError as error:
        say(error=error.to_json())
        sys.exit(error.exit_status)
    except Exception as error:
        explained = explain(error)
        if explained is not None:
            say(error=explained.to_json())
            sys.exit(explained.exit_status)
        traceback.print_exc()
        say(error={"type": "bug", "message": f"{type(error).__name__}: {error}", "fix": "please report it"})
        sys.exit(1)
    say(result=result_to_json(result))
    sys.exit(0)


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
