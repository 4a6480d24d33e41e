"""Cron as Kubeflow's scheduler reads it."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import UsageError
from enginepress.run.cron import next_times, parse_cron, zone
from tests.kfp_api.rules import cron_problem

START = datetime.datetime(2026, 3, 28, 12, 0, tzinfo=datetime.timezone.utc)  # a Saturday


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0 */15 * * * *", ["28 12:15:00", "28 12:30:00", "28 12:45:00"]),
        ("30 0 3 * * *", ["29 03:00:30", "30 03:00:30", "31 03:00:30"]),
        ("0 0 6 * * mon-fri", ["30 06:00:00", "31 06:00:00"]),
        ("0 0 6 * * MON", ["30 06:00:00"]),
        ("0 0 0 31 * ?", ["31 00:00:00"]),
        ("0 0 0 30 * 0", ["29 00:00:00", "30 00:00:00"]),  # either day, as both are restricted
        ("0 5/20 13 28 mar *", ["28 13:05:00", "28 13:25:00", "28 13:45:00"]),
        ("@daily", ["29 00:00:00", "30 00:00:00"]),
        ("@hourly", ["28 13:00:00", "28 14:00:00"]),
    ],
)
def test_times_are_those_that_the_scheduler_takes(text: str, times: list[str]) -> None:
    found = next_times(parse_cron(text), START, len(times))
    assert [f"{t:%d %H:%M:%S}" for t in found] == times


def test_five_fields_are_refused_with_the_six_that_were_meant() -> None:
    with pytest.raises(UsageError, match="would take the first of five for seconds") as caught:
        parse_cron("*/15 * * * *")
    assert caught.value.fix == 'put the second before it: --cron "0 */15 * * * *"'
    assert parse_cron("0 */15 * * * *").text == "0 */15 * * * *"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("60 * * * * *", "the second '60' is not in 0 to 59"),
        ("0 0 24 * * *", "the hour '24' is not in 0 to 23"),
        ("0 0 0 0 * *", "the day of month '0' is not in 1 to 31"),
        ("0 0 0 * * 7", "the day of week '7' is not in 0 to 6"),
        ("0 0 0 * foo *", "the month 'foo' is not in 1 to 12"),
        ("0 0 0 * * fri-mon", "the day of week 'fri-mon'"),
        ("0 */0 * * * *", "the minute '\\*/0'"),
        ("0 1,,2 * * * *", "the minute ''"),
        ("0 0 L * * *", "the hour 'L'"),
        ("*/5 * * * * *", "the first of six fields is the second"),
        ("* * * * * *", "the first of six fields is the second"),
        ("0 0 0 31 2 *", "never comes"),
        ("@every 1h", "counts from whenever"),
        ("@fortnightly", "is not one of @yearly"),
        ("TZ=Europe/Berlin 0 0 3 * * *", "no time zone of its own"),
    ],
)
def test_what_is_no_schedule_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_cron(text)
    assert caught.value.where == "--cron"


def test_times_are_told_in_the_schedulers_zone_across_a_change_of_clocks() -> None:
    berlin = zone("Europe/Berlin")
    found = next_times(parse_cron("0 30 2 * * *"), START.astimezone(berlin), 2)
    # At 02:00 on the 29th clocks are put forward: 02:30 is not shown that day.
    assert [f"{t:%d %H:%M %z}" for t in found] == ["30 02:30 +0200", "31 02:30 +0200"]
    with pytest.raises(UsageError, match="'Europe/Atlantis' is no time zone"):
        zone("Europe/Atlantis")


_FIELDS = st.sampled_from(
    ["*", "?", "0", "5", "1-5", "*/2", "3,4", "10-2", "61", "x", "", "5/7", "1-3/2", "mon", "jan", "*/0", "-"]
)


@given(st.lists(_FIELDS, min_size=5, max_size=5))
def test_what_we_take_kubeflow_takes(fields: list[str]) -> None:
    text = " ".join(["0", *fields])
    try:
        cron = parse_cron(text)
    except UsageError:
        return
    assert cron_problem(text) is None
    assert cron.next(START) is not None


@given(st.text(max_size=40))
def test_any_text_is_a_schedule_or_explained(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_cron(text)
