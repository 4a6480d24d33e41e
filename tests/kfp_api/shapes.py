"""Requests and answers against kfp-server-api's models: no field that they do not have, no value of another type.

The real gateway refuses unknown fields too (its JSON reader does not discard them).
"""

from __future__ import annotations

import re
from typing import Any

import kfp_server_api
from kfp_server_api import models

INT64 = {"max_concurrency", "interval_second", "execution_id", "pipeline_context_id", "pipeline_run_context_id"}
"""Whole numbers of 64 bits, which the models call strings, since JSON has no room for all of them; both ways are read."""


class ShapeError(ValueError):
    """A body that the API's models do not describe."""


def check(data: Any, kind: str, where: str = "") -> None:
    """Whether `data` is what the model `kind` says, all the way down.

    Raises:
        ShapeError: naming the first field that is not.
    """
    if data is None:
        return
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        _want(isinstance(data, list), where, "a list", data)
        for number, item in enumerate(data):
            check(item, match[1], f"{where}[{number}]")
        return
    if match := re.fullmatch(r"dict\([^,]*, (.*)\)", kind):
        _want(isinstance(data, dict), where, "an object", data)
        for key, item in data.items():
            check(item, match[1], f"{where}.{key}")
        return
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "datetime": str}
    if kind in plain:
        if where.rpartition(".")[2] in INT64 and isinstance(data, int) and not isinstance(data, bool):
            return
        right = isinstance(data, plain[kind]) and not (kind == "int" and isinstance(data, bool))  # type: ignore[arg-type]
        _want(right, where, kind, data)
        return
    if kind == "object":
        return
    model = getattr(models, kind)
    allowed = [value for name, value in vars(model).items() if name.isupper() and isinstance(value, str)]
    if allowed and not model.openapi_types:
        _want(data in allowed or isinstance(data, int), where, f"one of {', '.join(allowed)}", data)
        return
    _want(isinstance(data, dict), where, "an object", data)
    names = {key: attribute for attribute, key in model.attribute_map.items()}
    for key, item in data.items():
        if key not in names:
            raise ShapeError(f'unknown field "{key}"' + (f" in {where}" if where else ""))
        check(item, model.openapi_types[names[key]], f"{where}.{key}" if where else key)


def _want(right: bool, where: str, what: str, data: Any) -> None:
    if not right:
        raise ShapeError(f"invalid value for {where or 'the body'}: wanted {what}, got {str(data)[:80]!r}")


def query_names(api: type, method: str) -> set[str]:
    """The query parameters that a method of a generated API class takes."""
    text = getattr(api, method).__doc__ or ""
    return set(re.findall(r":param (\w+):", text)) - {"async_req"}


SERVED = kfp_server_api.__version__
