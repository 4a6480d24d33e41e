"""Where a path in a config leads, seen from a machine that may not be the one that serves."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from enginepress.repository.inventory import Model, Repository
from enginepress.repository.place import own_path

MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
"""Triton's name for the model's own folder, which it puts in for a few parameters of the python backend."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Resolved:
    """What a path value means.

    Attributes:
        path: the folder or file that is there, or None.
        inside: whether it must be in this repository, so that missing means broken.
        hub: whether it reads like a name on the Hugging Face hub.
        relative: whether it is relative to the server's working folder, which nobody knows here.
    """

    path: Path | None
    inside: bool = False
    hub: bool = False
    relative: bool = False


def resolve(repository: Repository, model: Model, value: str) -> Resolved:
    """What `value` leads to on this machine."""
    inner = own_path(value, set(repository.models))
    if inner is not None:
        return Resolved(_existing(repository.root / inner, repository.root), inside=True)
    if value.startswith(MODEL_DIRECTORY):
        rest = value[len(MODEL_DIRECTORY) :].lstrip("/")
        return Resolved(_existing(model.folder / rest, model.folder), inside=True)
    if os.path.isabs(value):
        return Resolved(_existing(Path(value), None))
    return Resolved(None, hub=bool(_HUB_NAME.fullmatch(value)), relative=True)


def _existing(path: Path, within: Path | None) -> Path | None:
    try:
        if not path.exists():
            return None
        real = path.resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    if within is not None and within.resolve() not in (real, *real.parents):
        return None
    return path
