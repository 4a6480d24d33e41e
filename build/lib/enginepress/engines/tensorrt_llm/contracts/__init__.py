"""What flags NVIDIA's tools take, tool by tool and release by release, as facts read from their public sources.

A file names its readings, each with repository, commit and path, and says which of them speak for which release. Where no
reading is of the release itself, several speak for it: only what all of them agree on is taken to be there, and the rest
(`Contract.maybe`) is left to the tool's own `--help`, which is asked in the image before any work is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from enginepress.engines.tensorrt_llm.flags import Contract, Flag
from enginepress.errors import RecipeError

_FOLDER = Path(__file__).parent
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it was compiled in


def names() -> list[str]:
    """All tools that are known: `trtllm-build`, `quantize`, `convert-<family>`."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def releases(tool: str) -> list[str]:
    return list(read_file(tool)["releases"])


@cache
def read_file(tool: str) -> Mapping[str, Any]:
    """One file as it is."""
    data: Mapping[str, Any] = yaml.load((_FOLDER / f"{tool}.yaml").read_text(encoding="utf-8"), Loader=_LOADER)
    return data


@cache
def load(tool: str, version: str) -> Contract:
    """What `tool` takes in this version of TensorRT-LLM ("1.2.1", "1.0.3.2510").

    Raises:
        RecipeError: for a version of which nothing is known.
    """
    data = read_file(tool)
    release = ".".join(version.split(".")[:2])
    if release not in data["releases"]:
        raise RecipeError(
            f"nothing is known of {tool} in TensorRT-LLM {version}",
            where="engine.container",
            fix="take a container with TensorRT-LLM " + ", ".join(data["releases"]),
        )
    readings = [_flags(data["readings"][name]["flags"]) for name in data["releases"][release]]
    agreed = [common for flag in readings[-1] if (common := _agreed(flag, readings[:-1])) is not None]
    known = {name for flag in agreed for name in flag.names}
    maybe: dict[str, Flag] = {}
    for flag in (flag for flags in reversed(readings) for flag in flags):
        if known.isdisjoint(flag.names) and not any(name in other.names for other in maybe.values() for name in flag.names):
            maybe[flag.name] = flag
    return Contract(tool, version, tuple(agreed), tuple(maybe.values()))


def _flags(table: Mapping[str, Mapping[str, Any]]) -> list[Flag]:
    return [
        Flag(
            names=(name, *facts.get("aliases", ())),
            kind=facts["type"],
            choices=tuple(str(c) for c in facts["choices"]) if "choices" in facts else None,
            default=facts.get("default"),
            required=facts.get("required", False),
            nargs=None if facts.get("nargs") is None else str(facts["nargs"]),
            choices_in_help=facts.get("choices_in_help", True),
        )
        for name, facts in table.items()
    ]


def _agreed(flag: Flag, others: list[list[Flag]]) -> Flag | None:
    """The flag as far as every other reading has it too: common names, common choices."""
    for flags in others:
        twin = next((f for f in flags if not set(f.names).isdisjoint(flag.names)), None)
        if twin is None or (twin.kind == "flag") != (flag.kind == "flag") or twin.nargs != flag.nargs:
            return None
        choices = flag.choices
        if choices is not None and twin.choices is not None:
            choices = tuple(c for c in choices if c in twin.choices)
        flag = Flag(
            names=tuple(n for n in flag.names if n in twin.names),
            kind=flag.kind,
            choices=choices,
            default=flag.default if flag.default == twin.default else None,
            required=flag.required or twin.required,
            nargs=flag.nargs,
            choices_in_help=flag.choices_in_help,
        )
    return flag
