"""Locks and outputs under the worst of conditions: killed holders, two at once, full and read-only places."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress import locks
from enginepress.errors import EnginepressError, GateError, LockedError, WorkspaceError, error_from_json
from enginepress.locks import Lock
from enginepress.process import die_with, identity, is_gone, kernel, process_start, run_logged
from enginepress.workspace import Workspace

HOLD = """
import sys, time
from pathlib import Path
from enginepress.locks import Lock
with Lock(Path(sys.argv[1]), about="a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_holder_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    child = _holder(tmp_path / "x.json")
    try:
        with (
            pytest.raises(LockedError, match=f"a test \\(process {child.pid}"),
            Lock(tmp_path / "x.json", about="me", wait=False),
        ):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_killed_holders_lock_is_taken_over_at_once(tmp_path: Path) -> None:
    child = _holder(tmp_path / "x.json")
    child.kill()
    child.wait()
    start = time.monotonic()
    with Lock(tmp_path / "x.json", about="me"):
        assert time.monotonic() - start < 2
    assert os.listdir(tmp_path) == []


def test_a_lock_is_forgotten_when_its_holder_is_dead_and_left_alone_while_it_lives(tmp_path: Path) -> None:
    child = _holder(tmp_path / "x.json")
    Lock(tmp_path / "x.json", about="me").forget_the_dead()
    assert os.listdir(tmp_path) == ["x.json"]
    child.kill()
    child.wait()
    Lock(tmp_path / "x.json", about="me").forget_the_dead()
    assert os.listdir(tmp_path) == []
    Lock(tmp_path / "x.json", about="me").forget_the_dead()


def test_a_holder_on_another_machine_is_given_up_when_its_heartbeat_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    far = {"owner": "far", "host": "other", "kernel": "another", "pid": 1, "start": "1", "beat": 7, "about": "far away"}
    (tmp_path / "x.json").write_text(json.dumps(far))
    waited: list[str] = []
    start = time.monotonic()
    with Lock(tmp_path / "x.json", about="me", on_wait=waited.append):
        assert time.monotonic() - start >= 1.0
    assert waited == ["far away (process 1 on other)"]


def test_a_beating_holder_on_another_machine_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(locks, "STALE_SECONDS", 0.6)
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            far = {"owner": "far", "host": "other", "kernel": "another", "pid": 1, "start": "1", "beat": count, "about": "far"}
            (tmp_path / "tmp").write_text(json.dumps(far))
            os.replace(tmp_path / "tmp", tmp_path / "x.json")
            time.sleep(0.1)
        (tmp_path / "x.json").unlink()

    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.3)
    threading.Timer(2.0, stop.set).start()
    start = time.monotonic()
    with Lock(tmp_path / "x.json", about="me"):
        assert time.monotonic() - start >= 1.5
    thread.join()


def test_time_in_which_nobody_looked_does_not_count_against_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of NFS that was away for minutes stopped the holder's heartbeat as well as our looking at it."""
    now = 1000.0
    monkeypatch.setattr(locks.time, "monotonic", lambda: now)
    stillness, holder = locks._Stillness(), {"owner": "far", "beat": 7, "changed": 1}
    for _ in range(11):
        stillness.seen(holder)
        now += 5.0
    now += 600.0
    assert stillness.seen(holder) < locks.STALE_SECONDS
    assert stillness.seen({**holder, "beat": 8}) == 0.0
    for _ in range(13):
        now += 5.0
        last = stillness.seen({**holder, "beat": 8})
    assert last > locks.STALE_SECONDS


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_holder_whose_file_was_moved_aside_by_mistake_takes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    with Lock(tmp_path / "x.json", about="me"):
        first = json.loads((tmp_path / "x.json").read_text())["owner"]
        (tmp_path / "x.json").unlink()
        _wait_until((tmp_path / "x.json").exists)
        assert json.loads((tmp_path / "x.json").read_text())["owner"] == first
    assert os.listdir(tmp_path) == []


def test_a_lock_file_that_cannot_be_read_for_a_while_does_not_end_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    with Lock(tmp_path / "x.json", about="me") as lock:
        read, refused = Lock._read, []

        def stale(lock: Lock) -> dict[str, Any] | None:
            refused.append(1)
            return {} if len(refused) < 3 else read(lock)

        monkeypatch.setattr(Lock, "_read", stale)
        _wait_until(lambda: lock._beat > 0)
    assert len(refused) >= 3


def test_a_full_disk_leaves_a_holder_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    path = tmp_path / "x.json"
    with Lock(path, about="me"):

        def full(path: Path, text: str, encoding: str = "") -> int:
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        os.utime(path, (1, 1))
        _wait_until(lambda: path.stat().st_mtime > 1)
    assert os.listdir(tmp_path) == []


def test_a_process_that_proc_hides_counts_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user's process `/proc` shows nothing where it is mounted with hidepid, and a signal to it is not permitted."""
    owner = {"kernel": kernel(), "pid": 2**22 + 1, "start": "1"}  # no pid is as large as that
    assert is_gone(owner)

    def forbidden(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert not is_gone(owner)
    assert is_gone({**owner, "pid": os.getpid()}), "one that is seen has its start compared"
    assert not is_gone({**owner, "kernel": "another"})


def test_another_users_lock_that_may_not_be_read_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To wait for its heartbeat would be in vain, and to take it over would rob one who lives."""
    path = tmp_path / "x.json"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda asked, mode: False)
    with pytest.raises(WorkspaceError, match="may not be read") as caught, Lock(path, about="me"):
        pass
    assert caught.value.where == str(path)
    assert os.listdir(tmp_path) == ["x.json"]


def _count_in_lock(path: Path, counter: Path) -> None:
    for _ in range(5):
        with Lock(path, about="counting"):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))


def test_many_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    workers = [multiprocessing.Process(target=_count_in_lock, args=(tmp_path / "x.json", tmp_path / "counter")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "20"


def test_a_finished_output_is_never_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    calls = []

    def work(output: Path) -> dict[str, int]:
        calls.append(1)
        (output / "x").write_text("made")
        return {"n": len(calls)}

    first = workspace.produce("engines", "k", work, about="a test")
    second = workspace.produce("engines", "k", work, about="a test")
    assert first == second
    assert len(calls) == 1
    assert first.record["seconds"] >= 0
    assert (first.folder / "x").read_text() == "made"


@pytest.mark.parametrize("ending", ["fails", "writes on"])
@pytest.mark.parametrize("other", ["has finished", "was killed"])
def test_who_was_asleep_while_somebody_took_over_gets_what_that_one_made(ending: str, other: str, tmp_path: Path) -> None:
    """Nothing of what the sleeper writes afterwards is put into place: its folder was swept away, or part of it."""
    workspace, calls = Workspace(tmp_path), []

    def finish(folder: Path) -> None:
        (folder / "output").mkdir(parents=True)
        (folder / "output" / "engine").write_text("whole")

    def work(output: Path) -> dict[str, Any]:
        calls.append(output)
        if len(calls) == 1:
            shutil.rmtree(output.parent)  # as who took over does, before it begins
            if other == "has finished":
                finish(tmp_path / "engines" / "k")
                (tmp_path / "engines" / "k" / "record.json").write_text("{}")
            if ending == "fails":
                raise GateError("the tool's folder is gone")
            return {}
        (output / "engine").write_text("whole")
        return {}

    done = workspace.produce("engines", "k", work, about="test")
    assert (done.folder / "engine").read_text() == "whole"
    assert len(calls) == (1 if other == "has finished" else 2)
    assert list((tmp_path / "partial").iterdir()) == []


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def work(output: Path) -> dict[str, int]:
        (output / "half").write_text("x")
        raise GateError("no")

    with pytest.raises(GateError):
        workspace.produce("engines", "k", work, about="a test")
    assert workspace.find("engines", "k") is None
    assert not list((tmp_path / "partial").iterdir())
    assert not list((tmp_path / "locks").iterdir())


def test_a_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    dead, alive = _holder(tmp_path / "locks" / "engines-dead.json"), _holder(tmp_path / "locks" / "engines-alive.json")
    for name in ("engines-dead-12345678", "engines-alive-12345678", "engines-gone-12345678", "checkpoint-files"):
        (tmp_path / "partial" / name).mkdir(parents=True)
    dead.kill()
    dead.wait()
    try:
        workspace.sweep()
        assert sorted(os.listdir(tmp_path / "partial")) == ["checkpoint-files", "engines-alive-12345678"]
        assert os.listdir(tmp_path / "locks") == ["engines-alive.json"]
    finally:
        alive.kill()
        alive.wait()
    Workspace(tmp_path / "nowhere").sweep()
    assert not (tmp_path / "nowhere").exists()


def test_what_a_killed_worker_left_is_swept_by_the_next(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    left = tmp_path / "partial" / "engines-k-12345678" / "output"
    left.mkdir(parents=True)
    other = tmp_path / "partial" / "engines-other-12345678"
    other.mkdir()
    workspace.produce("engines", "k", lambda output: {}, about="a test")
    assert list((tmp_path / "partial").iterdir()) == [other]


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="file"):
        Workspace(tmp_path / "file" / "sub").check_writable()


def test_a_process_dies_with_its_owner_and_takes_its_children_along(tmp_path: Path) -> None:
    """The owner starts a shell that starts a task that starts a tool: killing the owner alone ends all three."""
    task = (
        "import os, sys, subprocess\nfrom pathlib import Path\n"
        "from enginepress.process import die_with, run_logged\n"
        "die_with(os.environ['OWNER'])\nPath(sys.argv[1], 'task').write_text(str(os.getpid()))\n"
        "run_logged(['sh', '-c', f'echo $$ > {sys.argv[1]}/tool; exec sleep 60'], log=Path(sys.argv[1], 'log'))\n"
    )
    (tmp_path / "task.py").write_text(task)
    owner = (
        "import os, sys, subprocess\nfrom enginepress.process import identity\n"
        "subprocess.run(['sh', '-c', f'{sys.executable} {sys.argv[1]}/task.py {sys.argv[1]}; true'],"
        " env={**os.environ, 'OWNER': identity()})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", owner, str(tmp_path)])
    deadline = time.monotonic() + 20
    while not (tmp_path / "tool").exists() or not (tmp_path / "tool").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int((tmp_path / name).read_text()) for name in ("task", "tool")]
    assert all(process_start(pid) for pid in pids)
    child.send_signal(signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 5
    while any(process_start(pid) for pid in pids):
        assert time.monotonic() < deadline, "a task outlived its owner"
        time.sleep(0.02)


def test_a_task_whose_owner_is_already_gone_ends_at_once() -> None:
    code = "from enginepress.process import die_with; die_with('999999999:1'); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 137
    assert done.stdout == ""


def test_a_pid_that_was_given_to_another_process_is_not_the_owner() -> None:
    code = f"from enginepress.process import die_with; die_with('{os.getpid()}:1'); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 137
    die_with(identity())


def test_a_record_that_was_damaged_is_named_with_what_to_remove(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    made = workspace.produce("engines", "a", lambda folder: {}, about="a test")
    (tmp_path / "engines/a/record.json").write_text('{"seco')
    with pytest.raises(WorkspaceError, match="is damaged") as caught:
        workspace.find("engines", "a")
    assert caught.value.where == str(made.folder.parent / "record.json")
    assert str(made.folder.parent) in str(caught.value.fix)
    workspace.write_text("", "revisions", "x.json")
    with pytest.raises(WorkspaceError, match=r"x\.json: is damaged"):
        workspace.read_json("revisions", "x.json")


def test_a_tools_output_is_kept_line_by_line(tmp_path: Path) -> None:
    lines: list[str] = []
    status = run_logged(["sh", "-c", "echo one; echo two >&2; exit 3"], log=tmp_path / "log", on_line=lines.append)
    assert status == 3
    assert lines == ["one", "two"]
    assert "one\ntwo\n" in (tmp_path / "log").read_text()


def test_errors_travel_as_json() -> None:
    error = GateError("too slow", where="checks.load", fix="buy a GPU")
    back = error_from_json(json.loads(json.dumps(error.to_json())))
    assert type(back) is GateError
    assert (str(back), back.fix, back.exit_status) == (str(error), error.fix, 1)
    unknown = error_from_json({"type": "Gone", "message": "x"})
    assert type(unknown) is EnginepressError
