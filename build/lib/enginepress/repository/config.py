"""config.pbtxt: read, set, written. Always through Triton's own protobuf, never by replacing strings.

A template's config.pbtxt is itself a valid text form of `ModelConfig`. It is parsed, typed values are set on the message and
the message is printed, so that an unknown field, a wrong type or a forgotten placeholder cannot be written.
(`max_batch_size: 0` is proto3's default and therefore not printed; Triton reads a missing one as 0.)
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from enginepress.errors import RepositoryError
from enginepress.repository import pbtext
from enginepress.repository.proto import ModelConfig, model_config_module, new_config
from enginepress.repository.values import ConfigValues

MAX_BYTES = 2_000_000
"""No config is near this size; parsing time grows with it."""

_PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}?")
_TEXT_PARTS = re.compile(r'"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?|#[^\n]*|\$\{[^}\n]*\}?')
_NO_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" (?:has no field named|does not have field) "(?P<name>[^"]*)"')
_NO_VALUE = re.compile(r'Enum type "(?P<type>[\w.]+)" has no value named (?P<name>\S+?)\.?$')


# ------------------------------------------------------------------------------------------------------------------
# Reading and writing
# ------------------------------------------------------------------------------------------------------------------


def parse_config(text: str | bytes, where: str) -> ModelConfig:
    """The ModelConfig that a config.pbtxt holds.

    Args:
        where: the file, for messages.

    Raises:
        RepositoryError: naming the file, the line and the nearest known field; also for a placeholder that nobody filled.
    """
    if len(text) > MAX_BYTES:
        raise RepositoryError(f"is larger than {MAX_BYTES} bytes, so it is no config.pbtxt", where=where)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RepositoryError(f"is not text (byte {error.start} is not UTF-8)", where=where) from None
    for line, placeholder in find_placeholders(text):
        raise RepositoryError(
            f"line {line}: the placeholder {placeholder} was never filled",
            where=where,
            fix="write a value in its place, or remove the field",
        )
    config = new_config()
    try:
        config.ParseFromString(_parsed(text))
    except text_format.ParseError as error:
        message, fix = _explain(error)
        raise RepositoryError(message, where=where, fix=fix) from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise RepositoryError(f"is not a model configuration: {error}", where=where) from None
    if b"${" in config.SerializeToString():
        raise RepositoryError("holds a placeholder ${…} that was never filled", where=where, fix="write a value in its place")
    return config


@functools.lru_cache(maxsize=64)
def _printed(serialized: bytes) -> str:
    """Kept like `_parsed`: what assemble has printed is printed again, the same, when it is placed."""
    config = new_config()
    config.ParseFromString(serialized)
    return pbtext.to_text(config)


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> bytes:
    """The message in protobuf's own form. Kept, because templates are read for every release, and what assemble has written
    is read again to be placed: five models took 35 ms of parsing, of which this saves half."""
    config = new_config()
    pbtext.parse_text(text, config)
    serialized: bytes = config.SerializeToString()
    return serialized


def print_config(config: ModelConfig) -> str:
    """The text of a config.pbtxt: equal messages give equal bytes, whatever protobuf is installed."""
    return _printed(config.SerializeToString(deterministic=True))


def find_placeholders(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each `${…}` outside comments."""
    if "${" not in text:
        return
    for part in _TEXT_PARTS.finditer(text):
        if part.group().startswith("#"):
            continue
        for found in _PLACEHOLDER.finditer(part.group()):
            yield text.count("\n", 0, part.start() + found.start()) + 1, found.group()


def _explain(error: text_format.ParseError) -> tuple[str, str | None]:
    """protobuf's message in words, and the nearest name that exists."""
    raw = str(error)
    line = error.GetLine()
    place = "" if line is None else f"line {line}: "
    detail = re.sub(r"^\d+:\d+ : ", "", raw).replace("inference.", "")
    if (unknown := _NO_FIELD.search(raw)) is not None:
        name = unknown["name"]
        message = f"{place}{unknown['type'].removeprefix('inference.')} has no field '{name}'"
        return message, _nearest(name, _field_names(unknown["type"]))
    if (unknown := _NO_VALUE.search(raw)) is not None:
        name = unknown["name"].strip('"')
        message = f"{place}{unknown['type'].removeprefix('inference.')} has no value '{name}'"
        return message, _nearest(name, _enum_names(unknown["type"]))
    if detail.startswith(("'", '"')) and ":" in detail:
        # protobuf puts the offending line in front of what it says about it.
        detail = detail.rsplit("' : ", 1)[-1].rsplit('" : ', 1)[-1]
    return place + detail.strip().rstrip("."), None


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(sorted(known))


def _field_names(full_name: str) -> list[str]:
    types = model_config_module().DESCRIPTOR.message_types_by_name
    outer, *inner = full_name.removeprefix("inference.").split(".")
    descriptor = types.get(outer)
    for name in inner:
        descriptor = None if descriptor is None else descriptor.nested_types_by_name.get(name)
    return [] if descriptor is None else [f.name for f in descriptor.fields]


def _enum_names(full_name: str) -> list[str]:
    file = model_config_module().DESCRIPTOR
    *outer, name = full_name.removeprefix("inference.").split(".")
    scope: Any = file
    for part in outer:
        scope = (scope.message_types_by_name if scope is file else scope.nested_types_by_name).get(part)
        if scope is None:
            return []
    found = scope.enum_types_by_name.get(name)
    return [] if found is None else [v.name for v in found.values]


# ------------------------------------------------------------------------------------------------------------------
# Setting values
# ------------------------------------------------------------------------------------------------------------------


def fill(template: ModelConfig, values: ConfigValues) -> ModelConfig:
    """A copy of the template's config with the values set on it."""
    config = _copy(template)
    config.name = values.name
    if values.max_batch_size is not None:
        config.max_batch_size = values.max_batch_size
    if values.decoupled is not None:
        config.model_transaction_policy.decoupled = values.decoupled
    if values.instance_group is not None:
        del config.instance_group[:]
        group = config.instance_group.add()
        group.kind = type(group).Kind.Value(values.instance_group.kind)
        group.count = values.instance_group.count
        group.gpus.extend(values.instance_group.gpus)
    for key, value in values.parameters.items():
        config.parameters[key].string_value = value
    if values.queue is not None:
        del config.dynamic_batching.preferred_batch_size[:]
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
        config.dynamic_batching.max_queue_delay_microseconds = values.queue.max_delay_us
        config.dynamic_batching.default_queue_policy.max_queue_size = values.queue.max_size
    for tensor in (*config.input, *config.output):
        if tensor.name in values.data_types:
            tensor.data_type = model_config_module().DataType.Value(values.data_types[tensor.name])
    for step in config.ensemble_scheduling.step if config.HasField("ensemble_scheduling") else ():
        step.model_name = values.steps.get(step.model_name, step.model_name)
    return config


def _copy(message: Message) -> ModelConfig:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
