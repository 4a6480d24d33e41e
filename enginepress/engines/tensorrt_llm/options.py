"""The recipe's `engine.options` among the arguments that we choose: what a field of the recipe governs cannot be set here, and
what the tool does not have is refused with the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enginepress.engines.tensorrt_llm.flags import Contract, Flag, nearest
from enginepress.errors import RecipeError

Value = str | int | float | bool
Arguments = dict[str, str | None]
"""Flags with their values, in order; None for a flag that takes none."""


def merge_options(
    arguments: Mapping[str, str | None],
    options: Mapping[str, Value],
    contract: Contract,
    governed: Mapping[str, str],
    *,
    where: str,
) -> Arguments:
    """The arguments with the user's options, which replace ours.

    Args:
        governed: flag without dashes -> what governs it, as the end of "use …".
        where: the field of the recipe.

    Raises:
        RecipeError: for a governed or unknown flag, or a value that it does not take.
    """
    merged = dict(arguments)
    for key, value in options.items():
        field = f"{where}.{key}"
        plain = key.lstrip("-").replace("-", "_")
        flag = _find(plain, (*contract.flags, *contract.maybe))
        spellings = {plain, *(n.lstrip("-").replace("-", "_") for n in (flag.names if flag else ()))}
        if (owner := next((governed[s] for s in sorted(spellings) if s in governed), None)) is not None:
            raise RecipeError(f"--{key.lstrip('-')} is not set here", where=field, fix=owner)
        if flag is None:
            near = nearest("--" + plain, contract.names())
            raise RecipeError(
                f"{contract.tool} of TensorRT-LLM {contract.version} has no --{plain}",
                where=field,
                fix=f"did you mean '{near.lstrip('-')}'?" if near else f"see `{contract.tool} --help` in the container",
            )
        name = next((n for n in flag.names if n in merged), flag.name)
        if flag.kind == "flag":
            if not isinstance(value, bool):
                raise RecipeError(f"--{plain} takes no value, not '{value}'", where=field, fix="write true, or leave it out")
            merged.pop(name, None)
            if value:
                merged[name] = None
            continue
        text = _text(value, flag)
        several = flag.nargs in ("+", "*")
        for one in text.split() if several else [text]:
            if (reason := flag.refusal(one)) is not None:
                raise RecipeError(f"'{one}' {reason}", where=field)
        merged[name] = Several(text) if several else text
    return merged


class Several(str):
    """Values of a flag that takes several, parted by blanks as on a command line."""


def command_line(arguments: Mapping[str, str | None]) -> list[str]:
    return [part for name, value in arguments.items() for part in (name, *_values(value))]


def _values(value: str | None) -> list[str]:
    if value is None:
        return []
    return value.split() if isinstance(value, Several) else [value]


def enabled(arguments: Mapping[str, str | None], name: str) -> bool:
    """Whether a flag is set to something other than off."""
    return name in arguments and arguments[name] not in ("disable", "0")


def _find(plain: str, flags: Iterable[Flag]) -> Flag | None:
    return next((f for f in flags if any(n.lstrip("-").replace("-", "_") == plain for n in f.names)), None)


def _text(value: Value, flag: Flag) -> str:
    if isinstance(value, bool):
        if flag.choices is not None and {"enable", "disable"} <= set(flag.choices):
            return "enable" if value else "disable"
        return str(value).lower()
    return str(value)
