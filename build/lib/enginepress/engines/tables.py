"""Reads the tables of facts that lie beside this module: versions.yaml and gpus.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

# Ten times as quick, and there wherever PyYAML comes as a wheel.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load_table(name: str) -> Any:
    """The content of `<name>.yaml`. Do not change what it returns: it is kept."""
    with open(Path(__file__).with_name(f"{name}.yaml"), encoding="utf-8") as stream:
        return yaml.load(stream, Loader=_Loader)
