"""An argument parser as the real tool has it, made from one reading of its contract. Knows nothing of enginepress."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

CONTRACTS = Path(__file__).parents[3] / "enginepress" / "engines" / "tensorrt_llm" / "contracts"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "path": str}


class Refused(Exception):
    """A command line that the real tool would refuse."""


class Parser(argparse.ArgumentParser):
    """argparse, but that an error can be caught where nothing is to be ended."""

    raises = False

    def error(self, message: str) -> NoReturn:
        if self.raises:
            raise Refused(message)
        super().error(message)


class _Member(str):
    """A member of a Python enum, which argparse lists with its class."""

    def __new__(cls, value: str, of: str) -> _Member:
        member = super().__new__(cls, value)
        member.of = of  # type: ignore[attr-defined]
        return member

    def __str__(self) -> str:
        return f"{self.of}.{str.__str__(self)}"  # type: ignore[attr-defined]

    __hash__ = str.__hash__


@cache
def contract(tool: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load((CONTRACTS / f"{tool}.yaml").read_text(), Loader=_LOADER)
    return data


def readings_of(tool: str, release: str) -> list[str]:
    """Names of the readings that speak for a release."""
    names: list[str] = contract(tool)["releases"][release]
    return names


@cache
def make_parser(tool: str, reading: str, *, raises: bool = False) -> Parser:
    parser = Parser(
        prog=tool, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, description=f"stand-in for {tool}"
    )
    parser.raises = raises
    for name, facts in contract(tool)["readings"][reading]["flags"].items():
        more: dict[str, Any] = {"help": "a line of help with (brackets), --dashes and, commas. " * 2}
        if facts["type"] == "flag":
            more["action"] = "store_true"
        else:
            kind = _TYPES[facts["type"]]
            more |= {"type": kind, "default": facts.get("default"), "required": facts.get("required", False)}
            if "choices" in facts and facts.get("choices_in_help", True):
                of = facts.get("enum")
                more["choices"] = [_Member(c, of) if of else None if c == "None" else kind(c) for c in facts["choices"]]
            elif "choices" in facts:
                more["type"] = _one_of(facts["choices"])
            if "nargs" in facts:
                nargs = facts["nargs"]
                more["nargs"] = nargs
                if nargs == "?":
                    more["const"] = facts.get("default")
        parser.add_argument(name, *facts.get("aliases", ()), **more)
    return parser


def _one_of(choices: list[str]) -> Any:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise argparse.ArgumentTypeError(f"Invalid value '{value}'. Expected one of {choices}")
        return value

    return parse
