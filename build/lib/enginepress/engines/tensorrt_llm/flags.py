"""What a command line tool takes: its flags with types and choices, whether from our contracts or from its own `--help`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["flag", "int", "float", "str", "path"]


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        names: all its spellings, dashes included, the usual one first.
        kind: of its value; "flag" takes none.
        choices: all values that it takes, or None if that is open or unknown.
        default: None if there is none, or it is unknown.
        nargs: as argparse has it, None for exactly one value.
        choices_in_help: False if the tool checks the choices by itself, so that its `--help` does not list them.
    """

    names: tuple[str, ...]
    kind: Kind = "str"
    choices: tuple[str, ...] | None = None
    default: Any = None
    required: bool = False
    nargs: str | None = None
    choices_in_help: bool = True

    @property
    def name(self) -> str:
        return self.names[0]

    def refusal(self, value: str) -> str | None:
        """What is wrong with this value, as a sentence's end, or None."""
        if self.choices is not None and value not in self.choices:
            near = nearest(value, self.choices)
            return f"is none of {', '.join(self.choices)}" + (f"; did you mean '{near}'?" if near else "")
        if self.kind == "int" and not re.fullmatch(r"-?\d+", value):
            return "is no whole number"
        if self.kind == "float" and not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
            return "is no number"
        return None


@dataclass(frozen=True)
class Contract:
    """What one version of a tool takes.

    Attributes:
        version: of TensorRT-LLM.
        flags: what is there.
        maybe: what some reading near this version has and another has not: only the tool itself can tell.
    """

    tool: str
    version: str
    flags: tuple[Flag, ...]
    maybe: tuple[Flag, ...] = ()

    def find(self, name: str) -> Flag | None:
        """The flag of this spelling (dashes included), if it is there for certain."""
        return next((flag for flag in self.flags if name in flag.names), None)

    def takes(self, name: str, value: str | None = None) -> bool:
        """Whether this flag is there for certain and takes this value."""
        flag = self.find(name)
        return flag is not None and (value is None or flag.refusal(value) is None)

    def first(self, *names: str) -> str | None:
        """The first of these spellings that is there for certain."""
        return next((name for name in names if self.find(name) is not None), None)

    def names(self) -> list[str]:
        return [name for flag in (*self.flags, *self.maybe) for name in flag.names]


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most like this one, or None if none is."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def check_arguments(arguments: Sequence[str], contract: Contract) -> list[str]:
    """What the tool would refuse of these arguments, a sentence each. Abbreviated names count as unknown."""
    problems, given = [], set()
    for name, values in _split(arguments):
        flag = contract.find(name)
        if flag is None:
            near = nearest(name, contract.names())
            problems.append(f"it has no {name}" + (f"; near is {near}" if near else ""))
            continue
        given.add(flag.name)
        if flag.kind == "flag":
            if values:
                problems.append(f"{name} takes no value, not '{values[0]}'")
            continue
        if not values and flag.nargs not in ("?", "*"):
            problems.append(f"{name} needs a value")
        if len(values) > 1 and flag.nargs in (None, "?"):
            problems.append(f"{name} takes one value, not {len(values)}")
        for value in values:
            if (reason := flag.refusal(value)) is not None:
                problems.append(f"{name}: '{value}' {reason}")
    for flag in contract.flags:
        if flag.required and flag.name not in given:
            problems.append(f"{flag.name} is missing")
    return problems


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    name, values = "", list[str]()
    for argument in arguments:
        if argument.startswith("-") and not re.fullmatch(r"-\d.*", argument):
            if name:
                yield name, values
            name, values = argument, []
        else:
            values.append(argument)
    if name:
        yield name, values


# ------------------------------------------------------------------------------------------------------------------
# Help texts
# ------------------------------------------------------------------------------------------------------------------

_HEAD = re.compile(r"^ {1,4}(?P<head>-\S.*?)(?:\s{2,}\S.*)?$")
"""A line of argparse's help that names a flag: its spellings and placeholders, then two blanks and maybe its description."""

_VALUE = r"\[?\{[^}]*\}\]?(?: \[\{[^}]*\} \.\.\.\])?|[^,{-][^,]*"
_SPELLING = re.compile(rf"(?:^|, )(?P<name>--?[A-Za-z][\w-]*)(?: (?P<value>{_VALUE}))?")


def parse_help(text: str, *, tool: str, version: str) -> Contract:
    """The flags in what argparse prints for `--help`. Other lines, such as a tool's greeting, are skipped."""
    flags = []
    for line in text.splitlines():
        if (found := _HEAD.match(line.rstrip())) is None:
            continue
        names, value = [], ""
        for spelling in _SPELLING.finditer(found["head"]):
            names.append(spelling["name"])
            value = spelling["value"] or value
        if not names or "-h" in names or "--help" in names:
            continue
        listed = re.match(r"\[?\{([^}]*)\}", value)
        # Members of a Python enum are listed with their class, and given without it.
        choices = tuple(re.sub(r"^[A-Z]\w*\.", "", choice) for choice in listed[1].split(",")) if listed else None
        flags.append(
            Flag(
                names=tuple(sorted(names, key=lambda name: not name.startswith("--"))),
                kind="str" if value else "flag",
                choices=choices,
                nargs="+" if "..." in value else "?" if re.fullmatch(r"\[.*\]", value.strip()) else None,
            )
        )
    return Contract(tool, version, tuple(flags))
