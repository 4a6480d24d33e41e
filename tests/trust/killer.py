"""Backs up or restores, and is killed at one place after the other; says how often, and what was wrong in between.

python -m tests.trust.killer backup|restore SOURCE TARGET before|after TURN…

It has no threads, so it can fork for each attempt: a child does the work, and is killed before or after the n-th call of a
function that changes the target.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from enginepress.steps.backup import backup
from enginepress.steps.restore import restore
from enginepress.steps.verify_store import verify_store
from enginepress.stores import channels, publishing
from enginepress.stores.filesystem import FileStore
from enginepress.stores.layout import ModelFolder
from enginepress.workspace import Workspace

STOPS: tuple[tuple[object, str], ...] = (
    (publishing, "commit_folder"),
    (FileStore, "write_record"),
    (FileStore, "restore_channel"),
    (channels, "write_moves"),
    (channels, "_point"),
    (ModelFolder, "allot"),
)


def in_child(work: Callable[[], object]) -> int:
    """The status of a process that did this."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def with_a_kill(work: Callable[[], object], stop: tuple[object, str], turn: int, when: str) -> None:
    owner, name = stop
    function, left = getattr(owner, name), iter(range(turn - 1, -1000, -1))

    def wrapped(*arguments: object, **more: object) -> object:
        now = next(left)
        if now == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **more)
        if now == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)
    work()


def main(verb: str, source: str, target: str, when: str, turns: list[int]) -> dict[str, int]:
    one, two, work = FileStore(Path(source)), FileStore(Path(target)), Workspace(Path(f"{target}.work"))

    def do() -> object:
        if verb == "backup":
            return backup(one, two, workspace=work, registry=False)
        return restore(one, two, workspace=work, registry=None)

    def look() -> None:
        assert verify_store(two, deep=True).troubles == [], "what readers could see is whole at any time"

    kills = 0
    for turn, stop in itertools.product(turns, STOPS):
        status = in_child(lambda stop=stop, turn=turn: with_a_kill(do, stop, turn, when))  # type: ignore[misc]
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
            sys.exit(f"{verb} failed at turn {turn} of {stop}")
        if in_child(look) != 0:
            sys.exit(f"the target is damaged after turn {turn} of {stop}")
        if turn > 1:  # from the start again, so that later turns come about, too
            shutil.rmtree(target, ignore_errors=True)
    return {"kills": kills}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:5], [int(turn) for turn in sys.argv[5:]])))
