"""The real Triton as a child process: started on free ports, watched until its models are ready, ended without leftovers.

    with TritonServer(repository, log=folder / "server.log", models=["tiny-llama"]) as server:
        server.http, server.grpc, server.metrics      "127.0.0.1:port"

Whatever ends us ends the server: it asks the kernel for SIGKILL when its parent is gone, and its stubs notice that. A thread
of ours starts it and lives as long as it does, since for the kernel "parent" means the thread.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from enginepress.errors import ServerError
from enginepress.files import explain_os_error
from enginepress.process import die_with_parent
from enginepress.serving.control import is_ready, load_model, model_states, server_facts, unload_model
from enginepress.serving.http_connection import HttpConnection
from enginepress.serving.installation import Launch, find_installation, prepare
from enginepress.serving.launch import Ranks, find_ranks, spread
from enginepress.serving.server_log import lacks_backend, last_words, load_failures, port_was_taken
from enginepress.serving.shared_memory import end_processes, new_prefix, processes_of, remove_regions, sweep_leftovers

HOST = "127.0.0.1"
STARTS = 5
_PLAIN = re.compile(r"[A-Za-z0-9_./+=:,@%~-]+")
# After the first model has failed, others get this long to say that they failed, too.
OTHERS_S = 2.0


@dataclass(frozen=True)
class Ports:
    http: int
    grpc: int
    metrics: int


def free_ports() -> Ports:
    """Three ports that nobody listens on now. Somebody may take one before the server does; then it is started again."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for s in sockets:
            s.bind((HOST, 0))
        return Ports(*(s.getsockname()[1] for s in sockets))


class TritonServer:
    """A Triton server on one model repository. A context manager: inside it, all wanted models are ready.

    Args:
        repository: folder of models, or a link to one; a link is left to Triton to follow at each load.
        log: the server's output is appended to this file; its folder exists.
        models: the models to load and wait for; all that the repository holds by default.
        ready_timeout_s: how long loading may take.
        control_mode: "explicit" allows `load` and `unload` while it runs; "none" freezes what it started with.
        extra_args: more arguments for tritonserver; none that switches an endpoint off.
        exit_timeout_s: how long `stop` lets requests finish before it kills. Unloading takes Triton some 3 s even when it
            is idle; 0 kills at once, for who has nothing in flight.
        python: interpreter whose packages the models see; ours by default (see `enginepress.serving.installation`).
        choose_ports: called before each start.
    """

    def __init__(
        self,
        repository: Path,
        *,
        log: Path,
        models: Sequence[str] | None = None,
        ready_timeout_s: float = 180.0,
        control_mode: Literal["explicit", "none"] = "none",
        extra_args: Sequence[str] = (),
        exit_timeout_s: float = 10.0,
        python: Path | None = None,
        choose_ports: Callable[[], Ports] = free_ports,
    ) -> None:
        self.repository = repository.absolute()
        self.log = log
        self.ready_timeout_s = ready_timeout_s
        self.control_mode = control_mode
        self.extra_args = tuple(extra_args)
        self.exit_timeout_s = exit_timeout_s
        self.python = python
        self.version = ""
        self.ready_s = 0.0
        self._wanted = tuple(models) if models is not None else None
        self._choose_ports = choose_ports
        self._ports = Ports(0, 0, 0)
        self._prefix = new_prefix()
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = threading.Event()
        self._log_start = 0
        self._ranks: tuple[Ranks, ...] = ()

    @property
    def http(self) -> str:
        return f"{HOST}:{self._ports.http}"

    @property
    def grpc(self) -> str:
        return f"{HOST}:{self._ports.grpc}"

    @property
    def metrics(self) -> str:
        return f"{HOST}:{self._ports.metrics}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and not self._exited.is_set()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it was told to serve."""
        if self._wanted is not None:
            return self._wanted
        return tuple(sorted(p.parent.name for p in self.repository.glob("*/config.pbtxt")))

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # Start ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts it and waits until every wanted model is ready.

        Raises:
            ServerError: no server, an environment it cannot work in, a model that does not load, one that is not ready in
                time, a server that dies. Nothing is left running then.
        """
        if not self.models:
            raise ServerError("holds no model to serve", where=str(self.repository), fix="name a Triton model repository")
        sweep_leftovers()
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix=self._prefix))
            launch = prepare(find_installation(), self._scratch, python=self.python)
            served = _plain_path(self.repository, self._scratch)
            self._ranks = find_ranks(served)
            began = time.monotonic()
            for attempt in range(1, STARTS + 1):
                self._launch(launch, served)
                try:
                    self._wait_until_ready()
                    break
                except ServerError:
                    if not self._exited.is_set() or not port_was_taken(self._said()):
                        raise
                    if attempt == STARTS:
                        ports = f"{self._ports.http}, {self._ports.grpc}, {self._ports.metrics}"
                        raise ServerError(
                            f"one of its ports ({ports}) is in use", where=str(self.log), fix="name free ports; 0 picks one"
                        ) from None
            self.ready_s = time.monotonic() - began
        except OSError as error:
            self._end(0)
            raise explain_os_error(error, "starting the Triton server", ServerError) from None
        except BaseException:
            self._end(0)
            raise

    def _launch(self, launch: Launch, served: Path) -> None:
        self._ports = self._choose_ports()
        argv = [
            *launch.argv,
            f"--model-repository={served}",
            *(f"--{kind}-address={HOST}" for kind in ("http", "grpc", "metrics")),
            f"--http-port={self._ports.http}",
            f"--grpc-port={self._ports.grpc}",
            f"--metrics-port={self._ports.metrics}",
            f"--model-control-mode={self.control_mode}",
            # A failed model leaves the server up, so that it can say why; the configurations are complete as they stand.
            "--exit-on-error=false",
            "--disable-auto-complete-config",
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",
            f"--exit-timeout-secs={max(1, round(self.exit_timeout_s))}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            *self.extra_args,
        ]
        if self.control_mode == "explicit":
            argv += [f"--load-model={name}" for name in self._wanted or ("*",)]
        argv, env = spread(argv, launch.env, self._ranks, mpirun=_mpirun(self._ranks), gpus=_gpus(self._ranks))
        self._exited = threading.Event()
        started: list[subprocess.Popen[bytes] | BaseException] = []
        told = threading.Event()
        sink = open(self.log, "ab")  # noqa: SIM115 - the thread closes it
        self._log_start = sink.tell()
        sink.write(f"$ {' '.join(argv)}\n".encode())
        sink.flush()

        def run(exited: threading.Event) -> None:
            with sink:
                try:
                    process = subprocess.Popen(
                        argv,
                        env=env,
                        cwd=self._scratch,
                        stdin=subprocess.DEVNULL,
                        stdout=sink,
                        stderr=subprocess.STDOUT,
                        preexec_fn=die_with_parent,
                        # Ctrl-C is for us; we end the server ourselves, in order.
                        start_new_session=True,
                    )
                except BaseException as error:
                    started.append(error)
                    exited.set()
                    told.set()
                    return
            started.append(process)
            told.set()
            process.wait()
            exited.set()

        threading.Thread(target=run, args=(self._exited,), name="tritonserver", daemon=True).start()
        told.wait()
        if isinstance(started[0], BaseException):
            raise started[0]
        self._process = started[0]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_timeout_s
        failed_at: float | None = None
        with HttpConnection(self.http, timeout_s=5.0) as connection:
            while True:
                self.check_running("while it was starting")
                if self._all_ready(connection):
                    return
                now = time.monotonic()
                if failed_at is None and self._failures():
                    failed_at = now
                if failed_at is not None and now - failed_at > OTHERS_S:
                    raise self._load_error(self._failures())
                if now > deadline:
                    raise self._never_ready()
                self._exited.wait(0.05)

    def _all_ready(self, connection: HttpConnection) -> bool:
        """Triton answers HTTP only after it has tried every model; so what is not ready then has failed."""
        process = self._process
        assert process is not None
        # All three, since the metrics endpoint comes up last, and a server that does not get its port ends.
        # Of an mpirun, the server is a process below it.
        pids = [process.pid, *(processes_of(self._prefix) if self._ranks else ())]
        if not all(any(listens(pid, port) for pid in pids) for port in (self._ports.http, self._ports.grpc, self._ports.metrics)):
            return False
        try:
            facts = server_facts(connection)
            states = [s for s in model_states(connection) if s.name in self.models]
            if any(s.state in ("LOADING", "UNLOADING") for s in states):
                return False
            ready = {name for name in self.models if is_ready(connection, name)}
        except ServerError:
            return False
        self.version = facts.version
        missing = [name for name in self.models if name not in ready]
        if missing:
            reasons = {s.name: s.reason for s in states if s.reason}
            said = self._failures()
            raise self._load_error({n: reasons.get(n) or said.get(n) or said.get("") or "was not loaded" for n in missing})
        return self.running

    def _failures(self) -> dict[str, str]:
        return {n: reason for n, reason in load_failures(self._said()).items() if n == "" or n in self.models}

    def _load_error(self, failures: dict[str, str]) -> ServerError:
        lines = [f"model '{name}': {reason}" if name else reason for name, reason in failures.items()]
        said = "; ".join(lines)
        if lacks_backend(said):
            said += ". This machine is not the container that has this backend"
        return ServerError(f"Triton could not load {said}", where=str(self.repository), fix=f"the server's log: {self.log}")

    def _never_ready(self) -> ServerError:
        return ServerError(
            f"Triton was not ready after {self.ready_timeout_s:g} s. Its last lines:\n{self._last_words()}",
            where=str(self.log),
            fix="raise checks.ready_timeout_s if loading simply takes longer",
        )

    def _last_words(self) -> str:
        return last_words(self._said()) if self.log.exists() else ""

    def _said(self) -> str:
        """What this start has logged so far."""
        with open(self.log, "rb") as stream:
            stream.seek(self._log_start)
            return stream.read().decode(errors="replace")

    # While it runs ----------------------------------------------------------------------------------------------------

    def check_running(self, when: str = "") -> None:
        """Raises ServerError with the log's last lines if the server has died."""
        if self.running:
            return
        status = self._process.poll() if self._process is not None else None
        how = "is not running" if status is None else f"died {when}".strip() + f" ({describe_status(status)})"
        raise ServerError(
            f"the Triton server {how}. Its last lines:\n{self._last_words()}",
            where=str(self.log),
            fix="look at the whole log",
        )

    def load(self, model: str, *, version: int | None = None) -> tuple[str, ...]:
        """Loads or reloads a model from what lies in the repository now; see `enginepress.serving.control.load_model`."""
        with HttpConnection(self.http, timeout_s=self.ready_timeout_s) as connection:
            return load_model(connection, model, repository=self.repository, version=version)

    def unload(self, model: str) -> None:
        with HttpConnection(self.http, timeout_s=self.exit_timeout_s + 30) as connection:
            unload_model(connection, model)

    # Stop -------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends it and everything that belongs to it. Requests in flight get `exit_timeout_s`. May be called twice."""
        self._end(self.exit_timeout_s)

    def _end(self, patience_s: float) -> None:
        process = self._process
        if process is not None:
            if patience_s > 0 and self.running:
                process.send_signal(signal.SIGTERM)
                self._exited.wait(patience_s + 5)
            if self.running:
                process.kill()
                self._exited.wait()
            end_processes(self._prefix, patience_s=min(patience_s, 1.0))
            remove_regions(self._prefix)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def _plain_path(repository: Path, scratch: Path) -> Path:
    """The repository under a path that Triton can take: its Python backend loses itself in one with a space, for ever."""
    if _PLAIN.fullmatch(str(repository)):
        return repository
    if not _PLAIN.fullmatch(str(scratch)):
        raise ServerError(
            "Triton's Python backend cannot work below a folder with a space or another special character in its name",
            where=str(scratch),
            fix="set TMPDIR to another folder",
        )
    link = scratch / "repository"
    link.symlink_to(repository)
    return link


def _mpirun(ranks: Sequence[Ranks]) -> str:
    """The program that starts ranks, which NVIDIA's images have."""
    if not any(rank.mode == "leader" for rank in ranks):
        return "mpirun"
    found = shutil.which("mpirun")
    if found is None:
        raise ServerError(
            f"{ranks[0].model} takes {ranks[0].world_size} ranks, and there is no mpirun on PATH to start them",
            fix="serve it in its NVIDIA image, or build it with serving.multi_gpu: orchestrator",
        )
    return found


def _gpus(ranks: Sequence[Ranks]) -> int:
    """GPUs of this machine, counted by their device files; 0 where nobody asks."""
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if ranks else 0


def listens(pid: int, port: int) -> bool:
    """Whether this very process listens on the port; another one that took it meanwhile does not count."""
    # gRPC listens on the IPv4 address through an IPv6 socket, where the kernel has any.
    tables = [table for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if table.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    try:
        return any(os.readlink(entry) in sockets for entry in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        # It has just closed a file, or ended; the next look will tell.
        return False
    except PermissionError:
        # A binary with rights of its own does not let us look; then somebody's listening has to do.
        return bool(sockets)


def describe_status(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
