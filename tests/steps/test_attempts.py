"""Builds that failed are not tried at every pass: how long they wait, and that nobody's memory is lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from enginepress.errors import BuildError, EnginepressError, StoreError
from enginepress.steps.attempts import (
    FIRST_PAUSE,
    KEPT_SECONDS,
    LONGEST_FINAL_PAUSE,
    LONGEST_PAUSE,
    Attempts,
    pause_after,
)
from enginepress.workspace import Workspace

HOUR, DAY = 3600.0, 86_400.0
MODEL = "file:///srv/models/tiny"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("enginepress.steps.attempts.time.time", clock)
    return clock


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("every", "error", "tried"),
    [
        (DAY, BuildError("no"), [0, 1, 4, 11, 19, 27]),
        (DAY, StoreError("is away"), [0, 1, 3, 5, 7, 9]),
        (7 * DAY, BuildError("no"), [0, 1, 3, 5, 7, 9]),
        (HOUR / 4, StoreError("is away"), [0, 1, 4, 11, 26, 57]),
    ],
    ids=["each night, for good", "each night, in passing", "each week, for good", "each quarter of an hour"],
)
def test_what_fails_every_time_is_tried_ever_more_seldom_however_often_it_is_looked_at(
    workspace: Workspace, clock: Clock, every: float, error: EnginepressError, tried: list[int]
) -> None:
    """A build that fails after half an hour (a quarter of a minute, where passes are frequent), at each pass at which it may."""
    takes = min(HOUR / 2, every / 60)
    begun, found = clock.now, []
    for number in range(tried[-1] + 1):
        clock.now = begun + number * every
        if Attempts(workspace).held_back(MODEL, "this build") is None:
            found.append(number)
            clock.now += takes
            Attempts(workspace).failed(MODEL, "this build", error)
    assert found == tried


@pytest.mark.parametrize(
    ("failures", "since_last", "final", "pause"),
    [
        (1, 0.0, True, FIRST_PAUSE),
        (2, 60.0, True, 2 * FIRST_PAUSE),
        (3, HOUR, False, 2 * HOUR),
        (2, 30 * DAY, False, LONGEST_PAUSE),
        (2, 30 * DAY, True, LONGEST_FINAL_PAUSE),
        (10_000, 0.0, True, LONGEST_FINAL_PAUSE),
    ],
)
def test_a_pause_doubles_up_to_a_limit(failures: int, since_last: float, final: bool, pause: float) -> None:
    assert pause_after(failures, since_last, final=final) == pause


def test_another_build_of_the_model_is_tried_at_once_and_one_that_was_built_is_forgotten(
    workspace: Workspace, clock: Clock
) -> None:
    attempts = Attempts(workspace)
    failure = attempts.failed(MODEL, "a build", BuildError("no", where="/x", fix="mend it"))
    assert (failure.failures, failure.error["fix"]) == (1, "mend it")
    assert attempts.held_back(MODEL, "a build") == failure == Attempts(workspace).held_back(MODEL, "a build")
    assert attempts.held_back(MODEL, "another build") is None
    assert attempts.failed(MODEL, "another build", {"type": "GateError", "message": "no"}).failures == 1
    attempts.forget(MODEL)
    assert Attempts(workspace).held_back(MODEL, "another build") is None


def test_what_nobody_tries_any_more_is_forgotten(workspace: Workspace, clock: Clock) -> None:
    Attempts(workspace).failed(MODEL, "a build", BuildError("no"))
    clock.now += FIRST_PAUSE + KEPT_SECONDS + 1
    Attempts(workspace).failed("file:///srv/models/other", "b", BuildError("no"))
    assert list(json.loads(workspace.path("watch", "attempts.json").read_text())) == ["file:///srv/models/other"]


def test_watchers_and_pods_that_fail_at_once_forget_nothing_of_each_other(workspace: Workspace) -> None:
    all_of_them = [Attempts(workspace) for _ in range(8)]

    def fail(number: int) -> None:
        for turn in range(3):
            all_of_them[number].failed(f"file:///srv/{number}", f"build {turn}", BuildError("no"))

    threads = [threading.Thread(target=fail, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = Attempts(workspace)
    assert all(later.held_back(f"file:///srv/{number}", "build 2") for number in range(8))
    assert not list(workspace.path("locks").glob("*"))


@pytest.mark.parametrize("text", ["[", '{"a": 3}', '{"a": {"tried": "x"}}', "[1]"])
def test_a_memory_that_is_damaged_costs_no_more_than_a_try(workspace: Workspace, text: str) -> None:
    workspace.write_text(text, "watch", "attempts.json")
    attempts = Attempts(workspace)
    assert attempts.held_back(MODEL, "x") is None
    attempts.failed(MODEL, "x", BuildError("no"))
    assert Attempts(workspace).held_back(MODEL, "x") is not None
    assert Attempts(workspace).held_back(MODEL, "x").again > time.time()  # type: ignore[union-attr]
