"""kill -9 in the middle of a download, and several processes at one workspace. Real processes, real signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginepress.locks import STALE_SECONDS
from enginepress.sources.huggingface import HuggingFaceSource
from tests.sources.hub_server import Fault, HubServer
from tests.sources.tiny import checkpoint

REPO = "org/tiny"
WEIGHTS = "model.safetensors"
MIB = 1024 * 1024

CHILD = """
import json, sys
from pathlib import Path
from enginepress.recipe import Source
from enginepress.sources.download import download_checkpoint
from enginepress.sources.open import open_source
from enginepress.workspace import Workspace

workspace = Workspace(Path(sys.argv[1]))
source = open_source(Source(uri="hf://org/tiny"), cache=None)
revision = source.resolve()

def work(output):
    store = workspace.path("partial", "checkpoint-files")
    files = download_checkpoint(source, revision, output, partial_store=store, progress=lambda *a: None)
    return {"files": {f.path: f.sha256 for f in files}}

print("started", flush=True)
done = workspace.produce("checkpoints", revision.digest, work, about="download")
print(json.dumps(done.record["files"]), flush=True)
"""


def _start(workspace: Path) -> subprocess.Popen[str]:
    """A process that downloads into a workspace, as the step does."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(workspace)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    return child


def _end(child: subprocess.Popen[str]) -> dict[str, str]:
    assert child.stdout is not None
    output = child.stdout.read()
    child.stdout.close()
    assert child.wait() == 0
    files: dict[str, str] = json.loads(output)
    return files


def _kill_at(child: subprocess.Popen[str], hub: HubServer, count: int) -> None:
    deadline = time.monotonic() + 240
    while hub.sent[WEIGHTS] < count:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def _settle(hub: HubServer) -> None:
    """Until the server has seen that nobody listens any more."""
    last = -1
    while hub.sent[WEIGHTS] != last:
        last = hub.sent[WEIGHTS]
        time.sleep(0.3)


def _killed_twice(hub: HubServer, workspace: Path, size: int) -> tuple[int, int]:
    """Kills a download at 50 %, the next at 75 %, and lets a third end. Returns the file's size and the bytes asked for twice."""
    files = checkpoint(size=size)
    hub.add_repo(REPO, files)
    whole = len(files[WEIGHTS])
    for share in (0.5, 0.75):
        child = _start(workspace)
        _kill_at(child, hub, int(whole * share))
        _settle(hub)
    sha256 = _end(_start(workspace))[WEIGHTS]
    file = next(f for f in HuggingFaceSource(REPO).resolve().files if f.path == WEIGHTS)
    assert sha256 == file.digest.value
    (stored,) = workspace.glob(f"checkpoints/*/output/{WEIGHTS}")
    assert stored.read_bytes() == files[WEIGHTS]
    assert [p for p in workspace.glob("partial/**/*") if p.is_file()] == []
    return whole, hub.sent[WEIGHTS] - whole


def test_a_download_that_is_killed_twice_goes_on_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault(WEIGHTS, pause=0.002, times=-1))
    _, twice = _killed_twice(hub, tmp_path, 96 * MIB)
    assert twice <= 20 * MIB, f"{twice / MIB:.1f} MiB were sent twice"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_a_gigabyte_at_most_two_percent_are_sent_twice_by_two_kills(hub: HubServer, tmp_path: Path) -> None:
    shares = []
    for attempt in range(3):
        # What sockets hold is lost with each kill. On a machine that is busy elsewhere a file gets more streams, and so more
        # sockets: 3 % were seen there, 1.2 to 1.8 % else.
        hub.sent.clear()
        whole, twice = _killed_twice(hub, tmp_path / str(attempt), 1024 * MIB)
        shares.append(twice / whole)
        if shares[-1] <= 0.02:
            return
    raise AssertionError(f"sent twice: {', '.join(f'{share:.2%}' for share in shares)}")


def test_two_processes_at_one_workspace_download_once(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(shards=3, size=300_000)
    hub.add_repo(REPO, files)
    hub.faults.append(Fault("model-*", pause=0.5, times=-1))
    children = [_start(tmp_path) for _ in range(2)]
    first, second = [_end(child) for child in children]
    assert first == second
    shards = [path for path in files if path.startswith("model-")]
    assert sorted(path for path in hub.downloads() if path in shards) == shards


def test_one_that_is_killed_while_it_holds_the_lock_hardly_delays_the_other(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(size=20 * MIB)
    hub.add_repo(REPO, files)
    hub.faults.append(Fault(WEIGHTS, pause=0.01, times=1))
    holder = _start(tmp_path)
    while not hub.sent[WEIGHTS]:
        time.sleep(0.01)
    waiting = _start(tmp_path)
    _kill_at(holder, hub, 10 * MIB)
    start = time.monotonic()
    assert _end(waiting)[WEIGHTS]
    assert time.monotonic() - start < STALE_SECONDS / 2
    _settle(hub)
    assert hub.sent[WEIGHTS] - len(files[WEIGHTS]) < 10 * MIB, "what the first one had is kept"


def test_one_on_another_machine_that_is_gone_is_waited_for_no_longer_than_its_heartbeat(hub: HubServer, tmp_path: Path) -> None:
    """Its lock and its partial file are as a killed machine leaves them: of another kernel, and still."""
    files = checkpoint(size=20 * MIB)
    hub.add_repo(REPO, files)
    hub.faults.append(Fault(WEIGHTS, pause=0.01, times=1))
    holder = _start(tmp_path)
    _kill_at(holder, hub, 10 * MIB)
    (lock,) = (tmp_path / "locks").glob("*.json")
    (record,) = tmp_path.glob("partial/*/*.part.json")
    for path, change in ((lock, {"kernel": "another"}), (record, {"owner": {"kernel": "another", "pid": 1, "start": "1"}})):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    child = subprocess.Popen(
        [sys.executable, "-c", "from enginepress import locks; locks.STALE_SECONDS = 2.0\n" + CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    start = time.monotonic()
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    _settle(hub)
    before = hub.sent[WEIGHTS]
    assert _end(child)[WEIGHTS]
    assert 2 < time.monotonic() - start < 20
    assert hub.sent[WEIGHTS] - before < len(files[WEIGHTS])
    assert [p for p in tmp_path.glob("partial/**/*") if p.is_file()] == []
