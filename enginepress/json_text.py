"""JSON that somebody else wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from enginepress.errors import EnginepressError, SourceError


def json_value(raw: bytes | str) -> Any:
    """The value in `raw`. Raises ValueError for whatever the parser trips over, thousands of brackets among it."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_json(
    raw: bytes | str,
    *,
    where: str,
    kind: type[EnginepressError] = SourceError,
    problem: str = "is not JSON",
    fix: str | None = None,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value in `raw`.

    Args:
        where, kind, problem, fix: of the error.
        pairs: makes an object of its keys and values, in the file's order.

    Raises:
        kind: if it is no JSON. Beside its own error the parser raises a plain ValueError for a number of thousands of digits
            and a RecursionError for thousands of brackets: no file of a stranger may look like a bug of ours.
    """
    try:
        return json.loads(raw, object_pairs_hook=pairs)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise kind(f"{problem}: {reason}", where=where, fix=fix)
