"""Command lines in tests: what a tool makes of them, and what is planned or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from enginepress.errors import EnginepressError
from tests.engines.stand_ins.parser import make_parser, readings_of

T = TypeVar("T")


def value(line: list[str], flag: str) -> str | None:
    return line[line.index(flag) + 1] if flag in line else None


def taken(tool: str, version: str, line: list[str]) -> dict[str, Any]:
    """What the tool makes of the line; every reading of the release must take it."""
    parsed: dict[str, Any] = {}
    for reading in readings_of(tool, ".".join(version.split(".")[:2])):
        parsed = vars(make_parser(tool, reading, raises=True).parse_args(line))
    return parsed


def unless_refused(plan: Callable[[], T]) -> T | None:
    """What was planned, or None if it was refused, which must name a field."""
    error: EnginepressError
    try:
        return plan()
    except EnginepressError as caught:
        error = caught
    assert error.where is not None
    return None
