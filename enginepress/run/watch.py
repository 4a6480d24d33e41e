"""watch: builds what has changed, again and again, or once. What a scheduled rebuild does, without a cluster.

A pass asks every recipe's source what it has now (`steps.changed`), builds what a run would have work for, and says what became
of each recipe (`run.watch_record`). Each build is the very `run.local.run_recipe`, in a process of its own, so that a build that
dies takes nothing with it. What one recipe fails with touches no other.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginepress.errors import EnginepressError, RunEndedError
from enginepress.manifest import utc_now
from enginepress.run.apart import RunApart
from enginepress.run.watch_record import Outcome, Pass, Watched, keep_pass
from enginepress.steps.attempts import Attempts, Failure, what_is_tried
from enginepress.steps.changed import Change, changed
from enginepress.steps.recipe_folder import find_recipes
from enginepress.workspace import Workspace

JITTER = 0.1
"""The pause between two passes is longer or shorter by up to this share of it, so that many watchers do not ask together."""

Say = Callable[[str], None]


def watch(
    recipes: Sequence[Path],
    workspace: Workspace,
    *,
    every: float | None,
    parallel: int = 1,
    retry_failed: bool = False,
    stop: threading.Event | None = None,
    say: Say = lambda text: None,
    on_pass: Callable[[Pass], None] = lambda done: None,
) -> Pass:
    """Makes passes until `stop` is set; one pass if `every` is None. Returns the last.

    Args:
        recipes: files, and folders that are searched, with those in them, again for each pass.
        every: seconds from the start of a pass to the start of the next.
        parallel: builds at a time.
        retry_failed: the first pass tries at once what failed before.
        stop: set it from a signal handler or another thread: what is being built is ended, and goes on with the next pass.
        say: told when a build starts and how it ends.

    Raises:
        LockedError: if there is another watcher in this workspace.
        WorkspaceError: if the workspace cannot be written.
    """
    stop = stop or threading.Event()
    workspace.check_writable()
    with workspace.lock("watch", about="a watcher", wait=False):
        while True:
            started = time.monotonic()
            done = one_pass(recipes, workspace, parallel=parallel, retry_failed=retry_failed, stop=stop, say=say)
            retry_failed = False
            keep_pass(workspace, done)
            on_pass(done)
            if every is None or stop.is_set():
                return done
            pause = every * random.uniform(1 - JITTER, 1 + JITTER) - (time.monotonic() - started)
            if stop.wait(max(0.0, pause)):
                return done


def one_pass(
    recipes: Sequence[Path],
    workspace: Workspace,
    *,
    parallel: int = 1,
    retry_failed: bool = False,
    stop: threading.Event,
    say: Say = lambda text: None,
) -> Pass:
    """Asks all, builds what has changed, and tells what became of each, in the order of the recipes."""
    began, started = utc_now(), time.monotonic()
    changes = changed(find_recipes(recipes), workspace)
    asked = time.monotonic() - started
    builds = _Builds(workspace, Attempts(workspace), stop, say, retry_failed=retry_failed)
    with ThreadPoolExecutor(max(1, parallel), thread_name_prefix="watch") as pool, _ending(builds, stop):
        watched = tuple(pool.map(builds.of, changes))
    return Pass(began, time.monotonic() - started, asked, watched)


class _Builds:
    """The builds of one pass."""

    def __init__(self, workspace: Workspace, attempts: Attempts, stop: threading.Event, say: Say, *, retry_failed: bool) -> None:
        self._workspace = workspace
        self._attempts = attempts
        self._stop = stop
        self._say = say
        self._retry_failed = retry_failed
        self._lock = threading.Lock()
        self._running: set[RunApart] = set()

    def of(self, change: Change) -> Watched:
        if change.state == "failed":
            return _watched(change, "failed", error=change.error)
        if change.recipe is None:
            self._attempts.forget(change.target)
            return _watched(change, "current")
        tried = what_is_tried(change)
        failed = None if self._retry_failed else self._attempts.held_back(change.target, tried)
        if failed is not None:
            return _watched(change, "postponed", failure=failed)
        if self._stop.is_set():
            return _watched(change, "ended")
        return self._built(change, tried)

    def _built(self, change: Change, tried: str) -> Watched:
        assert change.recipe is not None
        self._say(f"{change.name}: {change.state}: {'; '.join(change.reasons)}")
        started = time.monotonic()
        try:
            with RunApart(change.recipe, self._workspace) as run:
                with self._lock:
                    self._running.add(run)
                if self._stop.is_set():
                    run.end()
                try:
                    result = run.result(on_wait=lambda holder: self._say(f"{change.name}: waiting for {holder}"))
                finally:
                    with self._lock:
                        self._running.discard(run)
        except RunEndedError:
            self._say(f"{change.name}: ended; the next pass goes on where it stopped")
            return _watched(change, "ended", seconds=time.monotonic() - started)
        except EnginepressError as error:
            failure = self._attempts.failed(change.target, tried, error)
            self._say(f"{change.name}: failed")
            return _watched(change, "failed", failure=failure, seconds=time.monotonic() - started)
        self._attempts.forget(change.target)
        self._say(f"{change.name}: release {result.release} ({time.monotonic() - started:.1f} s)")
        outcome: Outcome = "finished" if change.release == result.release else "built"
        done = _watched(change, outcome, seconds=time.monotonic() - started)
        return replace(done, release=result.release, revision=result.plan.revision_id)

    def end(self) -> None:
        """Ends what is being built."""
        with self._lock:
            running = list(self._running)
        for run in running:
            run.end()


def _watched(
    change: Change,
    outcome: Outcome,
    *,
    error: Mapping[str, Any] | None = None,
    failure: Failure | None = None,
    seconds: float = 0.0,
) -> Watched:
    return Watched(
        change.path,
        change.name,
        outcome,
        change.state,
        change.reasons,
        change.note,
        change.release,
        change.revision,
        seconds,
        error=failure.error if failure is not None else error,
        failures=failure.failures if failure is not None else 0,
        again=failure.again_text if failure is not None else "",
    )


class _ending:
    """A context in which builds are ended as soon as `stop` is set."""

    def __init__(self, builds: _Builds, stop: threading.Event) -> None:
        self._builds = builds
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="watch-ending", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _wait(self) -> None:
        while not self._over.is_set():
            if self._stop.wait(0.2):
                self._builds.end()
                return
