"""Kinds of fields that sections of a recipe share. `enginepress.recipe` has the sections themselves."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from enginepress.errors import UsageError
from enginepress.names import CHANNEL_NAME, MODEL_NAME, reserved_channel
from enginepress.quantities import parse_duration

_SECRET = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


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


def _channel_name(value: str) -> str:
    if trouble := reserved_channel(value):
        raise ValueError(trouble)
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SecretReference = Annotated[str, AfterValidator(_secret_reference)]
Duration = Annotated[str, AfterValidator(_duration)]
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
