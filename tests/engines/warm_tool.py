"""Real tools, for tests that run them dozens of times.

Most of a tiny build is the tool's import of torch and transformers. One process imports them once and forks for each run;
the child gets the very arguments, environment, folder and log that a process of its own would get.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from enginepress.engines.onnxruntime import OnnxRuntimeBuilder
from enginepress.process import die_with_parent

_WORKER = """
import json, os, runpy, sys, traceback
for name in sys.argv[1:]:
    __import__(name)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 0
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.clear()
            os.environ.update(job["env"])
            os.chdir(job["cwd"])
            sys.argv = job["argv"][2:]
            runpy.run_module(job["argv"][2], run_name="__main__", alter_sys=True)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class WarmTool:
    """Runs `python -m module …` in a fork of a process that has imported what the module needs."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self._worker = worker

    def run(self, argv: list[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> int:
        """As `enginepress.process.run_logged`."""
        job = {"argv": argv, "env": dict(env), "log": str(log), "cwd": str(cwd)}
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(job) + "\n")
        self._worker.stdin.flush()
        return int(self._answer())

    def wait_until_ready(self) -> None:
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._worker.stdout is not None
        answer = self._worker.stdout.readline().strip()
        assert answer, "the process that runs the tool is gone"
        return answer


class WarmBuilder(OnnxRuntimeBuilder):
    """The builder as it is, but for where the tool runs."""

    def __init__(self, tool: WarmTool) -> None:
        self._tool = tool

    def run_tool(self, argv: list[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> int:
        return self._tool.run(argv, log=log, env=env, cwd=cwd)


@contextmanager
def warm_builder() -> Iterator[WarmBuilder]:
    imports = ("torch", "transformers", "onnx_ir", "onnxruntime_genai.models", "onnxruntime.quantization.matmul_nbits_quantizer")
    with warm_tool(*imports) as tool:
        yield WarmBuilder(tool)


@contextmanager
def warm_tool(*imports: str) -> Iterator[WarmTool]:
    """A process that has imported these modules."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "warning"}
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, *imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **offline},
        preexec_fn=die_with_parent,
    )
    try:
        tool = WarmTool(worker)
        tool.wait_until_ready()
        yield tool
    finally:
        worker.kill()
        worker.wait()
