"""Markdown in which text of strangers stays text: prompts, answers, names of files, messages of servers."""

from __future__ import annotations

import re
from collections.abc import Sequence


def inline(text: object) -> str:
    """Text that stays text: on one line, and nothing in it means anything to Markdown or HTML."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#|~!$^])", r"\\\1", plain)


def code_span(text: object) -> str:
    """A stranger's text as a code span in a table cell; empty stays empty."""
    plain = " ".join(str(text).split())
    if not plain:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", plain)), default=0) + 1)
    # A backslash in front of a pipe is taken away by the table, before the code span is read.
    return f"{fence} {plain.replace('|', chr(92) + '|')} {fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, code: int = -1) -> list[str]:
    """A table and an empty line. `code`: the column whose text may be a stranger's."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [code_span(cell) if index == code else inline(cell) for index, cell in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def fenced(text: str) -> list[str]:
    """A block that nothing in the text can close, and an empty line."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = "\n".join(text.splitlines())
    return [fence, body, fence, ""]
