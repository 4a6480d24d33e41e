"""Sets of bytes, and the pieces in which the others are fetched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enginepress.sources.transfer.ranges import Ranges, pieces

SIZE = 40
spans = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda s: (min(s), max(s))), max_size=8)


def _bytes(ranges: Ranges) -> set[int]:
    return {at for start, stop in ranges.spans for at in range(start, stop)}


@given(spans)
def test_adding_spans_one_by_one_or_together_is_the_same_set(added: list[tuple[int, int]]) -> None:
    one_by_one = Ranges()
    for start, stop in added:
        if start < stop:
            one_by_one = one_by_one.add(start, stop)
    wanted = {at for start, stop in added for at in range(start, stop)}
    assert one_by_one == Ranges.of(added)
    assert _bytes(one_by_one) == wanted
    assert one_by_one.total == len(wanted)
    assert one_by_one.prefix == next(at for at in range(SIZE + 2) if at not in wanted)


@given(spans, st.integers(0, SIZE), st.integers(0, SIZE))
def test_what_is_missing_is_what_is_not_there(added: list[tuple[int, int]], start: int, stop: int) -> None:
    ranges = Ranges.of(added)
    missing = list(ranges.missing(start, stop))
    assert {at for a, b in missing for at in range(a, b)} == set(range(start, stop)) - _bytes(ranges)
    assert all(a < b for a, b in missing)


@given(spans, st.integers(1, 15))
def test_pieces_are_what_is_missing_cut_at_the_same_places(added: list[tuple[int, int]], piece: int) -> None:
    ranges = Ranges.of(added)
    found = pieces(ranges, SIZE, piece)
    assert {at for a, b in found for at in range(a, b)} == set(range(SIZE)) - _bytes(ranges)
    assert sum(b - a for a, b in found) == SIZE - ranges.total
    assert all(a // piece == (b - 1) // piece for a, b in found)
