"""The real Triton, asked one question: which models of this repository does it load, and why not the others?

The server comes from the nvidia-pytriton wheel. It is started with `--exit-on-error=false`, so one start judges many models.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What the server says of one version of a model; `version` is "" if it never got as far as a version."""

    name: str
    version: str
    state: str
    reason: str


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_files(scratch: Path) -> tuple[Path, Path, dict[str, str]]:
    """The binary, a backend folder with the python backend, and the environment that both need."""
    import pytriton

    home = Path(str(pytriton.__file__)).parent / "tritonserver"
    backends = scratch / "backends"
    python = backends / "python"
    shutil.copytree(home / "backends" / "python", python)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = python / "triton_python_backend_stub"
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", stub)
    stub.chmod(0o755)
    libraries = [sysconfig.get_config_var("LIBDIR"), str(home.parent.parent / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return home / "bin" / "tritonserver", backends, environment


@contextmanager
def triton(repository: Path, scratch: Path, *options: str, backend: Path | None = None) -> Iterator[str]:
    """Runs the server on a repository; yields its HTTP address once it answers.

    Args:
        backend: a folder with a model.py that serves every model whose backend has the folder's name.
    """
    binary, backends, environment = _server_files(scratch)
    if backend is not None:
        shutil.copytree(backend, backends / backend.name)
    port = _free_port()
    prefix = f"ep{uuid.uuid4().hex[:8]}"
    log = scratch / "triton.log"
    command = [
        str(binary), f"--model-repository={repository}", f"--backend-directory={backends}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
        "--exit-on-error=false", "--strict-readiness=false", "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={prefix}", *options,
    ]  # fmt: skip
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.time() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/v2/health/live", timeout=5).read()
                break
            except OSError:
                if process.poll() is not None or time.time() > deadline:
                    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}") from None
                time.sleep(0.1)
        yield address
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except ProcessLookupError:
            pass
        for region in Path("/dev/shm").glob(f"{prefix}*"):
            region.unlink(missing_ok=True)


def verdicts(address: str) -> dict[str, list[Verdict]]:
    """Every model of the repository, as the server's index lists it."""
    request = urllib.request.Request(f"{address}/v2/repository/index", data=b"{}", method="POST")
    found: dict[str, list[Verdict]] = {}
    for entry in json.loads(urllib.request.urlopen(request, timeout=30).read()):
        verdict = Verdict(entry["name"], entry.get("version", ""), entry.get("state", ""), entry.get("reason", ""))
        found.setdefault(verdict.name, []).append(verdict)
    return found


def infer(address: str, model: str, inputs: dict[str, Any]) -> Any:
    """One request over HTTP's generate endpoint."""
    body = json.dumps(inputs).encode()
    request = urllib.request.Request(f"{address}/v2/models/{model}/generate", data=body, method="POST")
    try:
        return json.loads(urllib.request.urlopen(request, timeout=30).read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())
