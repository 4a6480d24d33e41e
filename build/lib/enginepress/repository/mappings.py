"""JSON and YAML of unknown origin, read for checks: nothing that a file may hold breaks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginepress.repository.inventory import read_regular

_MAX_MAPPING = {".json": 5_000_000, ".yaml": 100_000}
"""Bytes. PyYAML is slow, and no model.yaml is near this size."""

_MAX_TOKENIZER = 200_000_000
_MAX_PARSED = 1_000_000


def read_mapping(path: Path) -> dict[str, Any] | None:
    """A JSON or YAML file that holds a mapping, or None."""
    limit = _MAX_MAPPING[path.suffix]
    content = read_regular(path, limit + 1)
    if content is None or len(content) > limit:
        return None
    try:
        if path.suffix == ".json":
            value = json.loads(content)
        else:
            import yaml

            try:
                value = yaml.safe_load(content)
            except yaml.YAMLError:
                return None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def reads_as_object(path: Path) -> bool:
    """Whether a JSON file can be what it should be: an object from its first brace to its last. Parsed only if that is quick,
    because large tokenizers take seconds. A file that is not there is nothing against it.
    """
    if not path.is_file():
        return True
    content = read_regular(path, _MAX_TOKENIZER)
    if content is None:
        return False
    content = content.strip()
    if not (content.startswith(b"{") and (content.endswith(b"}") or len(content) >= _MAX_TOKENIZER)):
        return False
    if len(content) > _MAX_PARSED:
        return True
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def section(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def number(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
