"""The commands that errors name, as one would type them here: with the recipe and the workspace that this command was given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click

from enginepress.errors import EnginepressError

_KEY = "enginepress.typed"
_COMMAND = re.compile(r"`enginepress ([a-z]+)((?: [^`]*)?)`")
_PLACEHOLDERS = ("RECIPE", "TARGET", "STORE")


def remembered(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Callback of an argument or option whose value later commands need again. Defaults were not typed, so they are not kept."""
    source = ctx.get_parameter_source(param.name or "")
    if value is not None and source is click.core.ParameterSource.COMMANDLINE:
        ctx.meta.setdefault(_KEY, {})[param.name] = str(value)
    return value


def completed(text: str) -> str:
    """A text with its `enginepress …` commands completed, as far as it is known with what."""
    ctx = click.get_current_context(silent=True)
    typed: dict[str, str] = ctx.meta.get(_KEY, {}) if ctx is not None else {}
    if ctx is None or not typed:
        return text
    group = ctx.find_root().command
    return _COMMAND.sub(lambda match: _completed(ctx, group, typed, match), text)


def complete_fix(error: EnginepressError) -> None:
    """The same for what an error says to do next."""
    if error.fix:
        error.fix = completed(error.fix)


def _completed(ctx: click.Context, group: click.Command, typed: dict[str, str], match: re.Match[str]) -> str:
    command = group.get_command(ctx, match[1]) if isinstance(group, click.Group) else None
    if command is None:
        return match[0]
    kind = next((p.name for p in command.params if isinstance(p, click.Argument)), None)
    given = _fitting(kind, typed)
    words = match[2].split()
    if words and words[0] in _PLACEHOLDERS:
        words = words[1:]
    elif words and not words[0].startswith("-"):
        return match[0]  # it says already with what
    if given is None:
        return match[0]
    if "workspace" in typed and any(p.name == "workspace" for p in command.params):
        words = [*words, "-w", shlex.quote(typed["workspace"])]
    return f"`enginepress {' '.join([match[1], shlex.quote(given), *words])}`"


def _fitting(kind: str | None, typed: dict[str, str]) -> str | None:
    """What was typed and can be an argument of this kind: a recipe file is a target, too, and not the other way round."""
    if "recipe" in typed:
        return typed["recipe"] if kind in ("recipe", "target") else None
    target = typed.get("target")
    if kind == "target":
        return target
    return target if kind == "recipe" and target is not None and Path(target).is_file() else None
