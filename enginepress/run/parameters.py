"""Parameters of a run, held against what the pipeline takes and what Kubernetes will: what cannot be is refused here, not by a
pod that never starts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from enginepress.compile_options import IMAGE_NAME, OBJECT_NAME
from enginepress.errors import UsageError
from enginepress.run.packages import Package, is_of_kind, kind_in_words

_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
MAY_BE_EMPTY = ("gpu_image", "registry")


def check_given(package: Package, given: Mapping[str, Any], *, own: Collection[str] = ()) -> None:
    """Raises UsageError for parameters that the pipeline does not have, that are set otherwise, or that cannot be.

    Args:
        own: parameters that have a place of their own.
    """
    for name, value in given.items():
        if name in own or name not in package.parameters:
            raise UsageError(
                f"'{name}' is no parameter that can be set",
                where="parameters",
                fix="there are: " + (", ".join(sorted(set(package.parameters) - set(own))) or "none"),
            )
        wanted = package.parameters[name]
        said = f"is not {kind_in_words(wanted.kind)}" if not is_of_kind(value, wanted.kind) else _wrong(name, value)
        if said:
            raise UsageError(f"{value!r} {said}", where=f"parameters, {name}", fix=f"the default is {wanted.default!r}")


def check_name(name: str, what: str, *, where: str) -> None:
    """Raises UsageError for what Kubernetes takes for no object's name."""
    if not OBJECT_NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name of {what}", where=where, fix="its name has only a-z, 0-9, - and .")


def _wrong(name: str, value: Any) -> str:
    """What is wrong with a value of the right kind; empty if nothing is."""
    if value == "" and name in MAY_BE_EMPTY:
        return ""
    if name.endswith(("_pvc", "_secret")) or name == "recipes":
        return "" if OBJECT_NAME.fullmatch(value) else "is no name of a Kubernetes object: a-z, 0-9, - and ."
    if name in ("image", "gpu_image"):
        return "" if IMAGE_NAME.fullmatch(value) else "is no name of an image"
    if name == "gpu_resource":
        return "" if _RESOURCE.fullmatch(value) else "is no resource, as nvidia.com/gpu is one"
    if name == "gpu_count":
        return "" if value >= 0 else "is less than 0, which says: as many as the recipe does"
    if name.endswith("node_selector"):
        return "" if all(isinstance(v, str) for v in value.values()) else 'has a value that is no text: {"label": "value"}'
    if name.endswith("tolerations"):
        return "" if all(isinstance(v, Mapping) for v in value) else 'has an entry that is no toleration: [{"key": "name"}]'
    return ""
