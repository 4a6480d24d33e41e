"""Which bytes of a file are there, and in which pieces the others are fetched. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""Start and stop of some bytes, the stop exclusive."""


@dataclass(frozen=True)
class Ranges:
    """A set of bytes: spans that are sorted, not empty and do not touch each other."""

    spans: tuple[Span, ...] = ()

    @staticmethod
    def of(spans: Iterable[Span]) -> Ranges:
        """Any spans, put together."""
        joined: list[Span] = []
        for start, stop in sorted(s for s in spans if s[0] < s[1]):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        return Ranges(tuple(joined))

    def add(self, start: int, stop: int) -> Ranges:
        for at, (first, last) in enumerate(self.spans):
            # Nearly always a stream goes on where it stopped and meets nothing.
            if last == start and (at + 1 == len(self.spans) or stop < self.spans[at + 1][0]):
                return Ranges((*self.spans[:at], (first, stop), *self.spans[at + 1 :]))
        return Ranges.of((*self.spans, (start, stop)))

    @property
    def total(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    @property
    def prefix(self) -> int:
        """Bytes from the file's start on without a hole."""
        return self.spans[0][1] if self.spans and self.spans[0][0] == 0 else 0

    def missing(self, start: int, stop: int) -> Iterator[Span]:
        """What lies between `start` and `stop` and is not there."""
        for first, last in self.spans:
            if last <= start:
                continue
            if first >= stop:
                break
            if start < first:
                yield start, first
            start = max(start, last)
        if start < stop:
            yield start, stop


def pieces(have: Ranges, size: int, piece: int) -> list[Span]:
    """What is missing of a file, in file order, cut where the offset is a multiple of `piece`."""
    found = []
    for start, stop in have.missing(0, size):
        while start < stop:
            end = min(stop, (start // piece + 1) * piece)
            found.append((start, end))
            start = end
    return found
