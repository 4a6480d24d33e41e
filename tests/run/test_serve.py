"""`enginepress serve`: the real Triton on a channel, which it follows forward and back."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.run.conftest import Finished
from tests.run.recipes import enginepress


class Served:
    """A running `enginepress serve` and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def said(self, pattern: str) -> re.Match[str]:
        """Waits until it says something."""
        deadline = time.monotonic() + 60
        while (found := re.search(pattern, self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return found

    def ask(self) -> dict[str, str]:
        address = self.said(r"http://([\d.]+:\d+)").group(1)
        body = json.dumps({"text_input": "Hello", "max_tokens": 3}).encode()
        with urllib.request.urlopen(f"http://{address}/v2/models/tiny/generate", body, timeout=30) as answer:
            return dict(json.load(answer))


@contextmanager
def serving(target: Path, channel: str, log: Path) -> Iterator[Served]:
    command = [sys.executable, "-u", "-m", "enginepress", "serve", str(target), "--channel", channel]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with open(log, "w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        yield Served(process, log)
    finally:
        process.kill()
        process.wait()


def test_a_live_server_answers_as_the_release_that_its_channel_names(finished_twice: Finished) -> None:
    """Forward and back: without a fresh activation Triton would keep the newer release after a rollback, with status 200."""
    recipe, workspace = finished_twice.recipe, finished_twice.folder / "workspace"
    with serving(recipe, "candidate", finished_twice.folder / "serve.log") as server:
        assert server.ask()["model_version"] == "2"
        for wanted in (1, 2, 1):
            done = enginepress("promote", recipe, str(wanted), "-c", "candidate", "-w", workspace)
            assert done.returncode == 0, done.stderr
            server.said(f"release {wanted} is served")
            deadline = time.monotonic() + 30
            while server.ask()["model_version"] != str(wanted):
                assert time.monotonic() < deadline, server.log.read_text()
                time.sleep(0.1)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(40) == 0
        assert "Traceback" not in server.log.read_text()
    verified = enginepress("verify", recipe)
    assert verified.returncode == 0, verified.stdout  # though Python has left compiled code beside what was served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_ends_cleanly_and_leaves_no_server(finished: Finished, number: signal.Signals) -> None:
    with serving(finished.recipe, "candidate", finished.folder / "serve.log") as server:
        address = server.said(r"http://([\d.]+:\d+)").group(1)
        server.process.send_signal(number)
        assert server.process.wait(40) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address}/v2/health/live", timeout=2)


def test_a_channel_that_is_not_there_is_named_with_those_that_are(finished: Finished) -> None:
    done = enginepress("serve", finished.recipe, "--channel", "prodution")
    assert done.returncode == 1
    assert "prodution" in done.stderr
    assert "candidate (release 1)" in done.stderr
