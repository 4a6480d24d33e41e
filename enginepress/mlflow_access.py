"""How enginepress talks to MLflow: credentials, time limits, quiet, errors in plain words, a database in the right place.

MLflow is told most of this by the environment, so a session sets the variables and puts them back. It is imported inside a
session only: the import takes seconds. What can be said without it (nobody listens, no such folder, not a database) is
found out before.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from enginepress.errors import EnginepressError, RecipeError, RegistryError, WorkspaceError
from enginepress.files import explain_os_error, sync_folder
from enginepress.locks import Lock

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

    from enginepress.recipe import Registry

CONNECT_SECONDS = 5.0

LATER = "the release stays published; the next run, or `enginepress doctor TARGET --repair`, finishes its registration"

_CREDENTIALS = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# MLflow's own would keep a run waiting for ten minutes and more. An operator's own settings win.
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_DATABASE_TRIES = 3
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LIBRARIES = ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "psycopg", "psycopg2", "pymysql")


@contextlib.contextmanager
def session(uri: str, settings: Registry, *, doing: str) -> Iterator[MlflowClient]:
    """A client for one piece of work.

    Args:
        uri: MLflow tracking URI; the models are registered there, too.
        settings: of the recipe, for the credentials.
        doing: for messages, as "registering release 7 of tiny".

    Raises:
        RecipeError: if a credential's environment variable is not set.
        RegistryError: if MLflow is not installed, cannot be reached or refuses; in bounded time.
    """
    variables = {**{k: v for k, v in _LIMITS.items() if k not in os.environ}, **_QUIET, **_credentials(settings)}
    with _environment(variables), _plain_errors(uri, doing), contextlib.ExitStack() as stack:
        if database := sqlite_path(uri):
            # Two processes that make the tables at once disturb each other.
            stack.enter_context(Lock(database.with_name(f"{database.name}.lock"), about=doing))
            if not _check_sqlite(database):
                _make_database(uri, database)
        else:
            _check_listening(uri)
        yield _client(uri)


def shown(uri: str) -> str:
    """The URI without a user name and password that may stand in it."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def sqlite_path(uri: str) -> Path | None:
    """The file behind a `sqlite:///` URI; None for other URIs and for databases in memory."""
    scheme, _, rest = uri.partition(":///")
    path = rest.partition("?")[0]
    return Path(path) if scheme.split("+")[0] == "sqlite" and path and path != ":memory:" else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server answers there, which keeps artifacts itself."""
    return urlsplit(uri).scheme in ("http", "https")


# Settings -------------------------------------------------------------------------------------------------------------


def _credentials(settings: Registry) -> dict[str, str | None]:
    """MLflow's variables for the recipe's credentials. A recipe that names some is not mixed with what is set elsewhere."""
    found: dict[str, str | None] = {}
    for field, variable in _CREDENTIALS.items():
        reference = getattr(settings, field)
        if reference is not None:
            name = reference.removeprefix("${").removesuffix("}")
            value = os.environ.get(name)
            if not value:
                raise RecipeError(
                    f"names the environment variable {name}, which is not set",
                    where=f"registry.{field}",
                    fix=f"export {name}, or on a cluster take it from a Secret",
                )
            found[variable] = value
    return {**dict.fromkeys(_CREDENTIALS.values()), **found} if found else {}


@contextlib.contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Sets variables (None: unsets), and puts back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _client(uri: str) -> MlflowClient:
    import logging

    try:
        from mlflow.tracking.client import MlflowClient
    except ImportError as error:
        raise RegistryError(
            f"MLflow cannot be imported: {error}", where="registry", fix="pip install 'enginepress[mlflow]'; " + LATER
        ) from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if urlsplit(uri).scheme.split("+")[0] in _DATABASES:
        import mlflow.store.db.utils as database

        # MLflow tries 15 times to open a database, over more than an hour.
        database.MAX_RETRY_COUNT = _DATABASE_TRIES
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


# What can be seen before MLflow is imported ---------------------------------------------------------------------------


def _check_listening(uri: str) -> None:
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    proxied = scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
    if not parts.hostname or scheme not in _PORTS or proxied:
        return
    try:
        port = parts.port or _PORTS[scheme]
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RegistryError(
            f"MLflow cannot be reached at {parts.hostname}: {reason}",
            where=shown(uri),
            fix=f"start it or correct the address; {LATER}",
        ) from None


def _make_database(uri: str, path: Path) -> None:
    """Makes MLflow's tables in a file apart and renames it: killed in the middle of that, MLflow could never open it again."""
    for left in path.parent.glob(f"{path.name}.new-*"):
        left.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.new-{uuid.uuid4().hex[:8]}")
    client = _client(f"{uri.partition(':///')[0]}:///{partial}")
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)
    with contextlib.closing(sqlite3.connect(partial)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.replace(partial, path)
    sync_folder(path.parent)


def _check_sqlite(path: Path) -> bool:
    """Finds out in no time what MLflow would try over and over. Returns whether the database has tables."""
    if not path.exists() and path.parent.is_dir():
        return False
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.execute("ROLLBACK")
            return bool(tables)
    except sqlite3.DatabaseError as error:
        raise RegistryError(
            f"cannot be used as MLflow's database: {error}",
            where=str(path),
            fix=f"move the file away, or name another place in registry.tracking_uri; {LATER}",
        ) from None


# Errors ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _plain_errors(uri: str, doing: str) -> Iterator[None]:
    try:
        yield
    except WorkspaceError as error:  # from the lock beside the database
        raise RegistryError(f"{doing} failed: {error.message}", where=error.where, fix=LATER) from None
    except EnginepressError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in _LIBRARIES or isinstance(error, ImportError):
            raise RegistryError(f"{doing} failed: {_reason(error, uri)}", where=shown(uri), fix=_fix(error)) from None
        if isinstance(error, OSError):
            raise explain_os_error(error, doing, RegistryError) from None
        raise


def _reason(error: Exception, uri: str) -> str:
    """The first line of what MLflow said, without secrets."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    secrets = {os.environ.get(v) for v in (*_CREDENTIALS.values(),)} | {urlsplit(uri).password}
    for secret in secrets - {None, ""}:
        text = text.replace(str(secret), "***")
    return text if len(text) <= 400 else text[:400] + "…"


def _fix(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ImportError):
        return f"pip install 'enginepress[mlflow]', and the driver of the database if it is not SQLite; {LATER}"
    if re.search(r"\b(401|403)\b|PERMISSION_DENIED|UNAUTHENTICATED", text):
        return f"check registry.username, registry.password or registry.token; {LATER}"
    if "schema" in text and "upgrade" in text:
        return f"run `mlflow db upgrade` on the database as its message says; {LATER}"
    return LATER


def error_code(error: Any) -> str:
    """MLflow's name for what went wrong, as RESOURCE_DOES_NOT_EXIST."""
    return str(getattr(error, "error_code", ""))
