"""One kept-alive HTTP connection to a Triton server, with errors in words. Standard library only.

A server that keeps its model control for operators (`--http-restricted-api=model-repository:NAME=VALUE`) wants a header; it is
read from the environment, as `ENGINEPRESS_TRITON_HEADER="NAME: VALUE"`, and never shown.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from enginepress.errors import ServerError, UsageError

HEADER_VARIABLE = "ENGINEPRESS_TRITON_HEADER"


def extra_headers() -> dict[str, str]:
    """What operators are known by. Raises UsageError if the variable holds something that is no header."""
    value = os.environ.get(HEADER_VARIABLE, "")
    if not value:
        return {}
    name, colon, content = value.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not content.strip().isprintable():
        raise UsageError(f"{HEADER_VARIABLE} holds no HTTP header", fix="write it as NAME: VALUE")
    return {name: content.strip()}


class HttpConnection:
    """Sends one request at a time to `address` ("host:port"); opens the connection again when the server has closed it.

    An IPv6 address stands in brackets, "[::1]:8000".
    """

    def __init__(self, address: str, *, timeout_s: float) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        # Given a port, http.client looks the host up with its brackets.
        self._connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_s)
        self._headers = extra_headers()

    def __enter__(self) -> HttpConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> http.client.HTTPResponse:
        """The response, its body not read yet.

        Raises:
            OSError, http.client.HTTPException: if nobody answers; see `problem`.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = dict(self._headers) if data is None else {"Content-Type": "application/json", **self._headers}
        fresh = self._connection.sock is None
        try:
            self._connection.request(method, path, body=data, headers=headers)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # A server may close an idle connection at any time; a new one that fails, too, is a real failure.
            self._connection.close()
            if fresh:
                raise
            self._connection.request(method, path, body=data, headers=headers)
            return self._connection.getresponse()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Status and parsed JSON (None for an empty body).

        Raises:
            ServerError: if the server cannot be reached or answers something that is not JSON.
        """
        try:
            response = self.send(method, path, body)
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self.problem(path, error) from None
        try:
            return response.status, json.loads(data) if data else None
        except ValueError:
            raise ServerError(f"answered {response.status} with something that is not JSON", where=self.url(path)) from None

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    def problem(self, path: str, error: Exception) -> ServerError:
        """A broken connection in words."""
        if isinstance(error, TimeoutError):
            said = f"did not answer within {self._connection.timeout:g} s"
        elif isinstance(error, ConnectionRefusedError):
            said = "cannot be reached: connection refused"
        elif isinstance(error, (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError)):
            said = "closed the connection in the middle of an answer"
        else:
            said = f"cannot be reached: {error}"
        fix = "look at the server's log"
        if "cannot be reached" in said:
            fix = "is Triton running there, and is this the port of its HTTP service (8000, if nobody said otherwise)?"
        return ServerError(f"the server {said}", where=self.url(path), fix=fix)


def error_text(status: int, answer: Any) -> str:
    """Triton's own words for an error."""
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        return str(answer["error"]).strip()
    return f"HTTP status {status}"
