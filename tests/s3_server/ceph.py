"""Ceph's object gateway from Debian's packages, with one monitor and one object store in memory, as processes.

    apt install --no-install-recommends ceph-mon ceph-osd radosgw

Needs root. No authentication inside the cluster; the S3 key is `enginepress`, the secret `enginepress-secret`. Ready in about
15 s.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType

READY_SECONDS = 150.0
ATTEMPTS = 3
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
KEY, SECRET = "enginepress", "enginepress-secret"

_CONFIG = """[global]
fsid={fsid}
mon_host=[v1:127.0.0.1:{mon}]
auth_cluster_required=none
auth_service_required=none
auth_client_required=none
osd_pool_default_size=1
osd_pool_default_min_size=1
osd_crush_chooseleaf_type=0
osd_pool_default_pg_num=8
osd_pool_default_pg_autoscale_mode=off
mon_allow_pool_size_one=true
mon_max_pg_per_osd=2000
ms_bind_msgr2=false
run_dir={folder}/run
admin_socket={folder}/run/$name.asok
log_file={folder}/$name.log
[mon.a]
mon_data={folder}/mon
[osd.0]
osd_data={folder}/osd
osd_objectstore=memstore
memstore_device_bytes=4294967296
public_addr=127.0.0.1
cluster_addr=127.0.0.1
[client.rgw]
rgw_data={folder}/rgw
rgw_frontends=beast endpoint=127.0.0.1:{rgw}
rgw_gc_obj_min_wait=1
"""

# Ceph is meant to run with tcmalloc, which Debian's does not. glibc gives the memory of each large buffer back at once, and a
# fifth of the server's work is then the kernel's zeroing of new pages. With these it keeps what it has.
_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}


def why_not() -> str | None:
    """Why it cannot be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt install --no-install-recommends ceph-mon ceph-osd radosgw)"
    return "starting Ceph needs root" if os.getuid() != 0 else None


class CephServer:
    """Three processes; a context manager. `url` and `environment` as S3Server has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mon, self._rgw = 0, 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> CephServer:
        """The object store sometimes ends right after its first start, refused by its monitor: then all begins anew."""
        base = self._folder
        for attempt in range(ATTEMPTS):
            self._folder = base / str(attempt)
            self._mon, self._rgw = _free_ports(2)
            self.url = f"http://127.0.0.1:{self._rgw}"
            try:
                return self._begin()
            except RuntimeError:
                if attempt == ATTEMPTS - 1:
                    raise
                self._processes.clear()
        raise AssertionError("the last attempt returns or raises")

    def _begin(self) -> CephServer:
        until = time.monotonic() + READY_SECONDS
        folder, fsid = self._folder, str(uuid.uuid4())
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir(parents=True)
        (folder / "ceph.conf").write_text(_CONFIG.format(fsid=fsid, folder=folder, mon=self._mon, rgw=self._rgw))
        try:
            address = f"[v1:127.0.0.1:{self._mon}]"
            self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, folder / "monmap", config=False)
            self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap")
            self._start("ceph-mon", "-i", "a", "-f")
            self._until(until, lambda: self._says("ceph", "-s") is not None)
            # The same id twice, or the store never comes up.
            osd = str(uuid.uuid4())
            self._run("ceph", "osd", "new", osd, "0")
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            self._start("ceph-osd", "-i", "0", "-f")
            self._until(until, lambda: "1 up" in (self._says("ceph", "osd", "stat") or ""))
            self._start("radosgw", "-f", "-n", "client.rgw")
            self._until(until, self._answers)
            user = ["--uid=enginepress", "--display-name=enginepress", f"--access-key={KEY}", f"--secret-key={SECRET}"]
            self._run("radosgw-admin", "user", "create", *user)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)  # nothing of it is kept, and an orderly end takes half a minute
            process.wait()

    def collect(self) -> None:
        """Frees the memory of removed objects at once."""
        self._run("radosgw-admin", "gc", "process", "--include-all")

    def _run(self, program: str, *arguments: str | Path, config: bool = True) -> None:
        more = ["-c", str(self._folder / "ceph.conf")] if config else []
        done = subprocess.run([program, *map(str, arguments), *more], capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")

    def _says(self, *command: str) -> str | None:
        try:
            config = str(self._folder / "ceph.conf")
            done = subprocess.run([*command, "-c", config], capture_output=True, text=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

    def _start(self, program: str, *arguments: str) -> None:
        with open(self._folder / f"{program}.out", "wb") as log:
            command = [program, *arguments, "-c", str(self._folder / "ceph.conf")]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **_MEMORY}))

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._rgw), 1).close()
            return True
        except OSError:
            return False

    def _until(self, deadline: float, ready: object) -> None:
        assert callable(ready)
        while not ready():
            dead = [p.args for p in self._processes if p.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "".join(f"{p.name}: {p.read_text()[-1000:]}\n" for p in sorted(self._folder.glob("*.out")))
                raise RuntimeError(f"Ceph does not come up ({dead}): {logs}")
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
