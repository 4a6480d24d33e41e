"""What is said of a long transfer."""

from __future__ import annotations

from enginepress.steps.meter import WINDOW_SECONDS, Meter


def test_files_are_added_up_and_the_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    meter = Meter(100_000_000_000, clock=lambda: now[0])
    assert str(meter) == "0.0 kB of 100.0 GB"
    meter.note("a", 5_000_000)
    assert str(meter) == "5.0 MB of 100.0 GB", "no rate before there is something to measure"
    for second in range(1, 101):
        now[0] = float(second)
        meter.note("a", second * 100_000_000)
        meter.note("b", second * 100_000_000)
    assert str(meter) == "20.0 GB of 100.0 GB, 200.0 MB/s, 6 min 40 s left"
    for second in range(101, 102 + int(WINDOW_SECONDS)):
        now[0] = float(second)
        meter.note("a", 10_000_000_000 + (second - 100) * 5_000_000)
    assert str(meter).endswith(" of 100.0 GB, 5.0 MB/s, 4 h 26 min left")


def test_a_file_that_is_begun_again_is_not_counted_twice() -> None:
    meter = Meter(2_000_000)
    meter.note("a", 1_500_000)
    meter.note("a", 0)
    meter.note("a", 500_000)
    assert str(meter).startswith("500.0 kB of 2.0 MB")
