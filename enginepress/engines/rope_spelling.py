"""The rotary embedding in config.json as both transformers 4 and transformers 5 look for it.

Version 5 writes `rope_parameters` only. A reader that looks for `rope_theta` and `rope_scaling`, as containers with version 4
do, would take base 10000 and no scaling: a model that runs and answers wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with `rope_theta` and `rope_scaling` added to `rope_parameters`, where that is one set for all layers."""
    both = dict(config)
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        return both
    values = {key: value for key, value in parameters.items() if key != "rope_theta"}
    if parameters.get("rope_theta") is not None:
        both["rope_theta"] = parameters["rope_theta"]
    kind = values.get("rope_type", values.get("type", "default"))
    both["rope_scaling"] = None if kind == "default" else {"type": kind, **values}
    return both
