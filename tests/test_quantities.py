from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import UsageError
from enginepress.quantities import duration_text, memory_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90 m", 5400), ("1.5min", 90), ("2W", 1_209_600), ("500ms", 0.5)]
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "count"), [("100GB", 10**11), ("1.5 TiB", 1_649_267_441_664), ("500mb", 5 * 10**8), ("7", 7)])
def test_amounts_of_bytes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "d", "30", "-1d", "1e3d", "inf d", "1 month", "30d30d", "٣d", "1" * 50 + "d"])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a span of time") as caught:
        parse_duration(text)
    assert caught.value.fix


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_size(text) >= 0


def test_sizes_for_people() -> None:
    assert [memory_text(n) for n in (2**20, 2**30 / 8, 3 * 2**30)] == ["1.0 MiB", "0.12 GiB", "3.00 GiB"]
    assert [duration_text(n) for n in (0.4, 59, 61, 3661)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]
    assert [size_text(n) for n in (0, 1500, 2_500_000, 3_000_000_000)] == ["0.0 kB", "1.5 kB", "2.5 MB", "3.0 GB"]
