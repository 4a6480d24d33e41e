"""OpenStack Swift with its S3 interface, from PyPI, as processes: an S3 server that others wrote.

It is one of the packages for development; ENGINEPRESS_SWIFT names another environment that has it. One device, one replica,
no memcache; the key is `test:tester`, the secret `testing`.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

VARIABLE = "ENGINEPRESS_SWIFT"
READY_SECONDS = 120.0

_FILTERS = {
    "catch_errors": "",
    "gatekeeper": "",
    "healthcheck": "",
    "cache": "memcache_servers = 127.0.0.1:{nobody}\n",
    "listing_formats": "",
    "s3api": "s3_acl = false\ncheck_bucket_owner = false\nmin_segment_size = 5242880\n",
    "tempauth": "user_test_tester = testing .admin\n",
    "copy": "",
    "slo": "",
    "dlo": "",
    "versioned_writes": "allow_versioned_writes = true\nallow_object_versioning = true\n",
    "symlink": "",
}


def installed() -> Path | None:
    """The environment with Swift, or None."""
    place = os.environ.get(VARIABLE) or sys.prefix
    return Path(place).resolve() if Path(place, "bin", "swift-proxy-server").exists() else None


class SwiftServer:
    """Four processes; a context manager. `url` and `environment` as S3Server has them."""

    def __init__(self, installation: Path, folder: Path) -> None:
        self._bin = installation / "bin"
        self._folder = folder
        self._ports = dict(zip(("account", "container", "object", "proxy", "nobody"), _free_ports(5), strict=True))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"http://127.0.0.1:{self._ports['proxy']}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> SwiftServer:
        (self._folder / "devices" / "disk").mkdir(parents=True)
        self._write(
            "swift.conf", "[swift-hash]\nswift_hash_path_suffix = suffix\n[storage-policy:0]\nname = one\ndefault = yes\n"
        )
        for kind in ("account", "container", "object"):
            self._ring(kind)
            more = "splice = no\n" if kind == "object" else ""
            app = f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n{more}"
            self._write(f"{kind}.conf", self._defaults(kind) + app)
        self._write("proxy.conf", self._defaults("proxy") + self._pipeline())
        try:
            for kind in ("account", "container", "object", "proxy"):
                self._start(kind)
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    def _defaults(self, kind: str) -> str:
        settings = {
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "bind_ip": "127.0.0.1",
            "bind_port": self._ports[kind],
            "swift_dir": self._folder,
            "devices": self._folder / "devices",
            "mount_check": "false",
            "workers": 0,
            "log_address": self._folder / "no-syslog",
        }
        return "[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _pipeline(self) -> str:
        app = "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nallow_account_management = true\n"
        filters = "".join(
            f"[filter:{name}]\nuse = egg:swift#{'memcache' if name == 'cache' else name}\n{settings.format(**self._ports)}"
            for name, settings in _FILTERS.items()
        )
        return f"[pipeline:main]\npipeline = {' '.join(_FILTERS)} proxy-server\n{app}{filters}"

    def _ring(self, kind: str) -> None:
        builder = self._folder / f"{kind}.builder"
        device = f"r1z1-127.0.0.1:{self._ports[kind]}/disk"
        for step in (["create", "6", "1", "1"], ["add", device, "1"], ["rebalance"]):
            subprocess.run([self._bin / "swift-ring-builder", builder, *step], check=True, stdout=subprocess.DEVNULL)

    def _start(self, kind: str) -> None:
        with open(self._folder / f"{kind}.log", "wb") as log:
            command = [self._bin / f"swift-{kind}-server", self._folder / f"{kind}.conf"]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _wait(self) -> None:
        until = time.monotonic() + READY_SECONDS
        for kind in ("account", "container", "object", "proxy"):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", self._ports[kind]), 1).close()
                    break
                except OSError:
                    dead = [p for p in self._processes if p.poll() is not None]
                    if dead or time.monotonic() > until:
                        logs = "".join(p.read_text()[-1000:] for p in sorted(self._folder.glob("*.log")))
                        raise RuntimeError(f"Swift does not come up: {logs}") from None
                    time.sleep(0.05)

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
