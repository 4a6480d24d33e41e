"""Which release of TensorRT-LLM or vLLM knows an argument of `serving.engine_args`: engine_args_releases.yaml.

A release that lies between one that has a name and one that lacks it was not read: there the name is taken, and the container
has the last word when it loads the model. So it is with names that the file says nothing of.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.engines.versions import Container, load_matrix, version_key
from enginepress.errors import RecipeError
from enginepress.repository.plans.engine_args import WHERE, load_arguments

_NEAR = 0.75


@dataclass(frozen=True)
class Span:
    """In which releases a name was seen; a dot leads into an argument.

    Attributes:
        before: the last release before it that was read, which lacks it; None if none was.
        since, until: the first and the last release that has it, of those that were read. None: not known.
        after: the first release after it that was read, which lacks it again; None if none was.
        instead: what takes its place then, where that is known.
    """

    before: str | None = None
    since: str | None = None
    until: str | None = None
    after: str | None = None
    instead: str | None = None

    def refuses(self, release: str) -> Literal["not yet", "no longer"] | None:
        key = version_key(release)
        if self.before is not None and key <= version_key(self.before):
            return "not yet"
        return "no longer" if self.after is not None and key >= version_key(self.after) else None


@functools.cache
def load_spans(builder: Literal["llmapi", "vllm"]) -> Mapping[str, Span]:
    """Name -> in which releases it is; names of which nothing is known are left out."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    table = yaml.load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"), Loader=loader)[builder]
    starts = {name: (line["lacking"], line["having"]) for line in table["since"] for name in line["names"]}
    ends = {name: (line["having"], line["lacking"]) for line in table["gone"] for name in line["names"]}
    instead = table["instead"]
    return {
        name: Span(*starts.get(name, (None, None)), *ends.get(name, (None, None)), instead=instead.get(name))
        for name in {**starts, **ends}
    }


def check_release(given: Mapping[str, Any], builder: Literal["llmapi", "vllm"], container: Container) -> None:
    """
    Raises:
        RecipeError: for an argument, at any depth, that the container's release does not know yet or knows no longer.
    """
    release = container.vllm if builder == "vllm" else container.tensorrt_llm
    if release is None:
        return
    spans = load_spans(builder)
    for name in _names(given):
        span = spans.get(name)
        if span is not None and (why := span.refuses(release)) is not None:
            raise RecipeError(
                _message(name, span, why, container),
                where=f"{WHERE}.{name}",
                fix=_fix(name, span, why, builder, container, release),
            )


def _names(given: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in given.items():
        name = f"{path}{key}"
        yield name
        if isinstance(value, dict):
            yield from _names(value, f"{name}.")


def _message(name: str, span: Span, why: str, container: Container) -> str:
    where = f"{container.holds} (Triton {container.tag})"
    if why == "not yet":
        seen = f"{span.since} is the first with it of those that were read" if span.since is not None else ""
        return f"{where} does not know '{name}' yet" + (f": {seen}" if seen else "")
    seen = f"; {span.until} is the last with it of those that were read" if span.until is not None else ""
    return f"{where} no longer knows '{name}': it is gone since {span.after}{seen}"


def _fix(name: str, span: Span, why: str, builder: Literal["llmapi", "vllm"], container: Container, release: str) -> str:
    instead = span.instead if why == "no longer" else None
    fix = f"set {instead} instead, leave it out" if instead is not None else "leave it out"
    rows = [row for row in load_matrix().of_kind(container.kind) if builder in row.builders]
    held = {row.tag: (row.vllm if builder == "vllm" else row.tensorrt_llm) or "" for row in rows}
    if why == "not yet" and span.since is not None:
        tags = [tag for tag, version in held.items() if version_key(version) >= version_key(span.since)]
        having = [tag for tag in tags if span.refuses(held[tag]) is None]
        fix += f", or set engine.container: {having[-1]} or a later one" if having else ""
    elif why == "no longer" and span.until is not None:
        having = [tag for tag, version in held.items() if version_key(version) <= version_key(span.until)]
        having = [tag for tag in having if span.refuses(held[tag]) is None]
        fix += f", or set engine.container: {having[0]} or an earlier one" if having else ""
    if instead is None and (near := _near(name, builder, release)) is not None:
        fix += f"; the nearest that {container.holds} has: '{near}'"
    return fix


def _near(name: str, builder: Literal["llmapi", "vllm"], release: str) -> str | None:
    """What this release has that is most like the name, at the same place."""
    path, _, last = name.rpartition(".")
    arguments, spans = load_arguments(builder), load_spans(builder)
    names = (arguments.names_in(path, {}) or []) if path else sorted(arguments.known)
    there = [n for n in names if (span := spans.get(f"{path}.{n}" if path else n)) is None or span.refuses(release) is None]
    return next(iter(difflib.get_close_matches(last, there, n=1, cutoff=_NEAR)), None)
