"""Takes a live Triton out of its load balancer, and puts it back, while it goes on answering.

Triton has no call for that. But it is "ready" (GET /v2/health/ready, what a Kubernetes readiness probe asks) only while every
model that it was told to load is; so one is loaded that cannot load: `enginepress-drain`, sent with the request, in no
repository. Loading it once more, in a form that can, and unloading it makes the server ready again. `--strict-readiness=false`
would take the meaning from it; the default is true.
"""

from __future__ import annotations

import base64
import json
import time
import uuid

from enginepress.errors import ServerError
from enginepress.serving.http_connection import HttpConnection, error_text

NAME = "enginepress-drain"
_PATH = f"/v2/repository/models/{NAME}"
_FAILS = "raise RuntimeError('this server is being drained by enginepress rollout')\n"
_LOADS = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
READY_S = 30.0


def server_is_ready(connection: HttpConnection) -> bool:
    """What a readiness probe sees."""
    return connection.ask("GET", "/v2/health/ready")[0] == 200


def is_drained(connection: HttpConnection) -> bool:
    """Whether it is not ready, and was drained at some time: one that never was does not know the model that drains it."""
    if server_is_ready(connection):
        return False
    status, answer = connection.ask("GET", f"/v2/models/{NAME}")
    return "is not found" not in error_text(status, answer)


def drain(connection: HttpConnection) -> None:
    """The server says that it is not ready, and goes on answering. Done twice it is done once.

    Raises:
        ServerError: if it stays ready.
    """
    _load(connection, _FAILS)
    if server_is_ready(connection):
        raise ServerError(
            "cannot be drained: it says that it is ready although a model of it is not",
            where=connection.url("/v2/health/ready"),
            fix="start tritonserver without --strict-readiness=false",
        )


def undrain(connection: HttpConnection) -> None:
    """The server is ready again. Also for one that was not drained.

    Raises:
        ServerError: if it does not get ready.
    """
    status, answer = _load(connection, _LOADS)
    if status != 200:
        raise ServerError(f"cannot be undrained: {error_text(status, answer)}", where=connection.url(_PATH), fix="restart it")
    connection.ask("POST", f"{_PATH}/unload", {})
    deadline = time.monotonic() + READY_S
    while not server_is_ready(connection):
        if time.monotonic() > deadline:
            raise ServerError(
                f"was not ready {READY_S:g} s after it was undrained",
                where=connection.url("/v2/health/ready"),
                fix="another of its models may have failed: look at POST /v2/repository/index",
            )
        time.sleep(0.1)


def _load(connection: HttpConnection, code: str) -> tuple[int, object]:
    config = {
        "name": NAME,
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        # Something new each time, or Triton would take it for loaded already.
        "parameters": {"at": {"string_value": uuid.uuid4().hex}},
    }
    files = {"file:1/model.py": base64.b64encode(code.encode()).decode()}
    return connection.ask("POST", f"{_PATH}/load", {"parameters": {"config": json.dumps(config), **files}})
