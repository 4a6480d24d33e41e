"""Triton's health and model-control API over HTTP: what is loaded, load this, drop that.

Triton answers a load with 200 and goes on serving the old files when none of the new ones is newer than what it remembers,
which is exactly what a rollback looks like. `load_model` therefore sends the configuration with the request, changed by a
mark, which makes Triton load for certain, and then compares the versions that are served with the wanted one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from enginepress.errors import RepositoryError, ServerError
from enginepress.serving.http_connection import HttpConnection, error_text
from enginepress.serving.server_log import plain_reason

MARK = "enginepress_load"


@dataclass(frozen=True)
class ModelState:
    """One line of the server's index. `state` is READY, UNAVAILABLE, LOADING, UNLOADING or '' for never loaded."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ServerFacts:
    name: str
    version: str


def server_facts(connection: HttpConnection) -> ServerFacts:
    status, answer = connection.ask("GET", "/v2")
    if status != 200:
        raise ServerError(error_text(status, answer), where=connection.url("/v2"))
    return ServerFacts(str(answer["name"]), str(answer["version"]))


def model_states(connection: HttpConnection) -> tuple[ModelState, ...]:
    """Every model that the server knows of."""
    path = "/v2/repository/index"
    status, answer = connection.ask("POST", path, {})
    if status != 200:
        raise ServerError(error_text(status, answer), where=connection.url(path))
    return tuple(
        ModelState(e["name"], e.get("version", ""), e.get("state", ""), plain_reason(e.get("reason", ""))) for e in answer
    )


def is_ready(connection: HttpConnection, model: str) -> bool:
    """Whether this model can be asked now; the server's own readiness says nothing about one model."""
    return connection.ask("GET", f"/v2/models/{quote(model, safe='')}/ready")[0] == 200


def served_versions(connection: HttpConnection, model: str) -> tuple[str, ...]:
    """The version folders of the model that are served now; none if it is not loaded."""
    status, answer = connection.ask("GET", f"/v2/models/{quote(model, safe='')}")
    return tuple(answer.get("versions", ())) if status == 200 else ()


def load_model(connection: HttpConnection, model: str, *, repository: Path, version: int | None = None) -> tuple[str, ...]:
    """Loads a model, or loads it again, from what lies in the repository now.

    Args:
        repository: the folder that the server serves, where its config.pbtxt is read.
        version: the only version that may be served afterwards.

    Returns:
        The versions that are served.

    Raises:
        ServerError: if it does not load (the old one then goes on answering), or if another version is served.
        RepositoryError: if its config.pbtxt cannot be read.
    """
    path = f"/v2/repository/models/{quote(model, safe='')}/load"
    status, answer = connection.ask("POST", path, {"parameters": {"config": _marked_config(repository / model / "config.pbtxt")}})
    if status != 200:
        raise ServerError(f"model '{model}' did not load: {plain_reason(error_text(status, answer))}", where=connection.url(path))
    versions = served_versions(connection, model)
    if version is not None and versions != (str(version),):
        raise ServerError(
            f"model '{model}' serves version {', '.join(versions) or 'none'} after it was told to load version {version}",
            where=connection.url(path),
            fix="restart the server",
        )
    return versions


def load_as_it_lies(connection: HttpConnection, model: str) -> None:
    """Loads a model from the server's own repository, if something there is newer than what the server remembers.

    That is so in every activation and every pulled folder. Only an answer tells whether it has worked.

    Raises:
        ServerError: if it does not load (the old one then goes on answering).
    """
    path = f"/v2/repository/models/{quote(model, safe='')}/load"
    status, answer = connection.ask("POST", path, {})
    if status != 200:
        said = plain_reason(error_text(status, answer))
        fix = "start tritonserver with --model-control-mode=explicit" if "not allowed" in said else None
        raise ServerError(f"model '{model}' did not load: {said}", where=connection.url(path), fix=fix)


def unload_model(connection: HttpConnection, model: str) -> None:
    """Drops a model; returns when Triton has taken the request, which may be before the memory is free."""
    path = f"/v2/repository/models/{quote(model, safe='')}/unload"
    status, answer = connection.ask("POST", path, {})
    if status != 200:
        raise ServerError(f"model '{model}' was not unloaded: {error_text(status, answer)}", where=connection.url(path))


def _marked_config(path: Path) -> str:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(f"cannot be read: {error}", where=str(path)) from None
    config.parameters[MARK].string_value = uuid.uuid4().hex
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None))
