"""One way to write JSON, so that equal things have equal digests.

`canonical_json` sorts keys, writes no spaces and refuses NaN. `parameter_json` is the same text with two escapes that
keep it whole on its way through kfp's local runner, which rewrites the word `python3` inside parameter values to the
path of an interpreter and fails on `{{$`; both escapes are plain JSON and disappear when the text is parsed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """The one JSON text for `value`: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: if the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parameter_json(value: Any) -> str:
    """Canonical JSON that survives being a parameter of a pipeline run by kfp's local runner."""
    return canonical_json(value).replace("python3", "pytho\\u006e3").replace("{{$", "{\\u007b$")


def sha256_hex(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def json_digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))
