"""Kinds of fields that sections of a recipe share. `enginepress.recipe` has the sections themselves."""

from __future__ import annotations

import difflib
import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from enginepress.errors import UsageError
from enginepress.names import CHANNEL_NAME, MODEL_NAME, reserved_channel
from enginepress.quantities import parse_duration

_SECRET = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


_TRACKING = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks", "databricks-uc", "uc")


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


_DEEPEST = 32
"""Mappings and lists inside each other. What tools take has five at most; a YAML alias can stand in itself."""


def _as_json(value: Any) -> Any:
    """What YAML can say and JSON cannot has no digest, and would reach the server as something else."""
    if (trouble := _no_json(value, "", 0)) is not None:
        raise ValueError(trouble)
    return value


def _no_json(value: Any, path: str, depth: int) -> str | None:
    name = path or "it"
    if depth > _DEEPEST:
        outer = re.split(r"[.\[]", path)[0]
        return f"{outer} holds more than {_DEEPEST} mappings or lists inside each other, or itself"
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{name} has a key that is no text, {key!r}: write it in quotes"
            if not key.isprintable():
                return f"{name} has a key that cannot be printed, {key!r}"
            if (trouble := _no_json(inner, f"{path}.{key}".lstrip("."), depth + 1)) is not None:
                return trouble
        return None
    if isinstance(value, list):
        return next((t for n, inner in enumerate(value) if (t := _no_json(inner, f"{path}[{n}]", depth + 1)) is not None), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value}, which is no number that can be counted with"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return f"{name} is a number of more than 64 bits"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{name} holds half a character (a lone surrogate)"
    if value is None or isinstance(value, (str, int, float)):
        return None
    kind = {"bytes": "binary data", "date": "a date", "datetime": "a date", "set": "a set"}.get(
        type(value).__name__, type(value).__name__
    )
    return f"{name} is {kind}, and must be text, a number, true, false, a list or a mapping: write it in quotes"


def _secret_reference(value: str) -> str:
    if not _SECRET.fullmatch(value):
        raise ValueError("a secret is never written into a recipe: name an environment variable, as ${NAME}")
    return value


def _duration(value: str) -> str:
    try:
        parse_duration(value)
    except UsageError as error:
        raise ValueError(f"{error.message}: {error.fix}") from None
    return value


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


def _tracking_uri(value: str) -> str:
    """MLflow says only after the build that it knows no such scheme. Plugins bring further ones, so only slips are refused."""
    scheme, written, rest = value.partition("://")
    dialect = scheme.partition("+")[0]
    if not written:
        if re.fullmatch(r"[\w.-]+:\d+(/.*)?", value):
            raise ValueError(f"'{value}' has no scheme: write http://{value} or https://{value}")
    elif dialect == "sqlite" and rest and not rest.startswith("/"):
        raise ValueError(f"'{value}' names a server, and SQLite has none: write {scheme}:///{rest}, with three slashes")
    elif dialect not in _TRACKING and (close := difflib.get_close_matches(dialect, _TRACKING, n=1, cutoff=0.7)):
        raise ValueError(f"'{scheme}://' is nothing that MLflow knows; did you mean '{close[0]}://'?")
    return value


def _channel_name(value: str) -> str:
    if trouble := reserved_channel(value):
        raise ValueError(trouble)
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SecretReference = Annotated[str, AfterValidator(_secret_reference)]
Duration = Annotated[str, AfterValidator(_duration)]
TrackingUri = Annotated[str, AfterValidator(_tracking_uri)]
RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
ChannelName = Annotated[str, Field(pattern=f"^{CHANNEL_NAME}$"), AfterValidator(_channel_name)]

S3Endpoint = Annotated[
    Annotated[str, Field(pattern=r"^https?://.+")] | None,
    Field(description="s3: the server's address. Default: AWS_ENDPOINT_URL, else Amazon."),
]
S3Region = Annotated[
    Annotated[str, Field(min_length=1)] | None, Field(description="s3: default: what boto3 finds, else us-east-1.")
]
S3PathStyle = Annotated[
    bool, Field(description="s3: address buckets as server/bucket, not as bucket.server. On by itself with an endpoint.")
]
S3CaBundle = Annotated[Annotated[str, Field(min_length=1)] | None, Field(description="s3: file with the certificates to trust.")]

JsonMapping = Annotated[dict[str, Any], AfterValidator(_as_json)]
"""Names to values of any kind that JSON has."""
