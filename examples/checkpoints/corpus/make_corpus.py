"""Writes `python-topics.txt`: the prose of the Python reference that ships with Python itself (pydoc_data.topics, PSF-2.0).

    python examples/checkpoints/corpus/make_corpus.py > examples/checkpoints/corpus/python-topics.txt

Code, grammar, tables, footnotes and version notes are left out, lines are joined into paragraphs, typographic quotes and
dashes become ASCII, and a paragraph that several topics share is kept once. Another Python gives another text.

    # heading
    (empty line)
    paragraph, one line each, an empty line between them
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pydoc_data.topics import topics

TYPOGRAPHY = {
    "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2014": " - ", "\u2013": "-", "\u2026": "...", "\u00a0": " ",
}  # fmt: skip
UNDERLINE = re.compile(r"[*=\-~^]{3,}")
SIGNATURE = re.compile(r"(?:(?:class|static|classmethod|async|coroutine|exception) )*([A-Za-z_][\w.]*)(?:\(.*)?")
LEFT_OUT = {"comparisons", "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesmapping", "typesseq"}
"""The longest parts but one, and what shares their text is left out with them: a small model is to learn all that stays."""
NOTES = (
    "New in version",
    "Changed in version",
    "Deprecated since",
    "See also",
    "Footnotes",
    "Note:",
    "Warning:",
    "Added in",
    "PEP ",
)


def main() -> int:
    known = {paragraph for name in LEFT_OUT for _, paragraphs in sections_of({name: topics[name]}) for paragraph in paragraphs}
    sections = deduplicated(sections_of({n: t for n, t in topics.items() if n not in LEFT_OUT}), seen=known)
    sys.stdout.write("\n\n".join("\n\n".join([f"# {heading}", *paragraphs]) for heading, paragraphs in sections) + "\n")
    return 0


def sections_of(texts: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Heading and prose paragraphs of every section, the longest topics first: the short ones are parts of them."""
    for name in sorted(texts, key=lambda n: (-len(texts[n]), n)):
        heading = name
        paragraphs: list[str] = []
        for block in re.split(r"\n\s*\n", texts[name].split("-[ Footnotes ]-")[0]):
            title = heading_of(block)
            if title is not None:
                yield heading, paragraphs
                heading, paragraphs = title, []
            else:
                paragraphs += [p for p in map(cleaned, items_of(block)) if is_prose(p)]
        yield heading, paragraphs


def heading_of(block: str) -> str | None:
    """The title, if the block is one: underlined, or the signature of something that is described below it."""
    lines = block.strip("\n").split("\n")
    if len(lines) == 2 and UNDERLINE.fullmatch(lines[1]):
        return cleaned(lines[0])
    signature = SIGNATURE.fullmatch(lines[0].strip())
    if (
        signature
        and "." in signature[1]
        and not signature[1].endswith(".")
        and all(SIGNATURE.fullmatch(x.strip()) for x in lines)
    ):
        return signature[1]
    return None


def items_of(block: str) -> list[str]:
    """A list's items, each a paragraph of its own; other blocks as they are."""
    return re.split(r"\n(?=\s*(?:\*|\d+\.) )", block)


def cleaned(text: str) -> str:
    for mark, plain in TYPOGRAPHY.items():
        text = text.replace(mark, plain)
    text = re.sub(r"(?<=\w-)\n\s*(?=\w)", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"^(?:\*|\d+\.) ", "", text)
    text = re.sub(r"\*\*([^*]+)\*\*|(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", lambda m: m[1] or m[2], text)
    text = re.sub(r"'(\"[^\"]+\")'", r"\1", text)
    text = re.sub(r" ?\[\d+\]", "", text)
    return re.sub(r"(?:(?<=\.) |^)(?:(?!\. ).)*:$", "", text)  # "... For example:" leads to code that is left out


def is_prose(text: str) -> bool:
    words = text.split()
    return (
        len(words) >= 8
        and text.isascii()
        and not text.startswith(NOTES)
        and re.match(r"[A-Z\"]", text) is not None
        and text.endswith(".")
        and not re.search(r">>>|::=|\|  |--\+|={3}|-{4}| {2}|\\\\", text)
        and sum(c.isalpha() or c == " " for c in text) / len(text) > 0.88
    )


def deduplicated(sections: Iterator[tuple[str, list[str]]], *, seen: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Each paragraph once, and none of `seen`; sections without any that is left are gone."""
    for heading, paragraphs in sections:
        fresh = [p for p in dict.fromkeys(paragraphs) if p not in seen]
        seen.update(fresh)
        if fresh:
            yield heading, fresh


if __name__ == "__main__":
    sys.exit(main())
