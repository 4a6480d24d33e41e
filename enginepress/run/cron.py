"""Cron as Kubeflow has it: six fields, seconds first (robfig/cron 1.2), in the time zone of Kubeflow's scheduler.

Kubeflow takes five fields too, and reads the first of them as seconds: `*/15 * * * *` then runs every 15 seconds. Five fields
are therefore refused here, with the six that were meant.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from enginepress.errors import UsageError

NAMES = ("second", "minute", "hour", "day of month", "month", "day of week")
_LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS = {
    "jan": 1,
    "feb": 2,
    "mar": 3,
    "apr": 4,
    "may": 5,
    "jun": 6,
    "jul": 7,
    "aug": 8,
    "sep": 9,
    "oct": 10,
    "nov": 11,
    "dec": 12,
}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
SHORT = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
YEARS = 5


@dataclass(frozen=True)
class Cron:
    """A schedule. `days_or`: a day counts if it is right by either of both day fields, as both are restricted."""

    text: str
    fields: tuple[frozenset[int], ...]
    days_or: bool

    def next(self, after: datetime.datetime) -> datetime.datetime | None:
        """The first time after `after`, in its time zone; None if there is none in five years."""
        seconds, minutes, hours = (sorted(f) for f in self.fields[:3])
        zone, day = after.tzinfo, after.date()
        for _ in range(366 * YEARS):
            if self._on(day):
                for hour in hours:
                    for minute in minutes:
                        for second in seconds:
                            found = datetime.datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone)
                            if found > after and _exists(found):
                                return found
            day += datetime.timedelta(days=1)
        return None

    def _on(self, day: datetime.date) -> bool:
        if day.month not in self.fields[4]:
            return False
        in_month, in_week = day.day in self.fields[3], (day.weekday() + 1) % 7 in self.fields[5]
        return (in_month or in_week) if self.days_or else (in_month and in_week)


def parse_cron(text: str) -> Cron:
    """A schedule as a user writes it.

    Raises:
        UsageError: naming the field that is wrong, or the six fields that five were meant to be.
    """
    where, written = "--cron", " ".join(text.split())
    if written.lower().startswith(("tz=", "cron_tz=")):
        raise UsageError(
            "Kubeflow's cron has no time zone of its own", where=where, fix="write the fields in its scheduler's zone"
        )
    if written.startswith("@every"):
        raise UsageError(
            "'@every' counts from whenever the schedule was made", where=where, fix='for example --cron "0 */15 * * * *"'
        )
    if written.startswith("@"):
        if written not in SHORT:
            raise UsageError(f"'{written}' is not one of {', '.join(SHORT)}", where=where)
        written = SHORT[written]
    words = written.split(" ")
    if len(words) == 5:
        raise UsageError(
            "has 5 fields; Kubeflow's cron has 6, and would take the first of five for seconds",
            where=where,
            fix=f'put the second before it: --cron "0 {written}"',
        )
    if len(words) != 6:
        count = len([w for w in words if w])
        raise UsageError(
            f"has {count} field{'s' if count != 1 else ''}; Kubeflow's cron has 6: {', '.join(NAMES)}",
            where=where,
            fix='write six, as "0 */15 * * * *" for every 15 minutes, or one of ' + ", ".join(SHORT),
        )
    fields = tuple(_field(word, number) for number, word in enumerate(words))
    cron = Cron(written, fields, not any(_star(words[n]) for n in (3, 5)))
    _check_pace(cron)
    return cron


def zone(name: str) -> ZoneInfo:
    """A time zone by its name.

    Raises:
        UsageError: if there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"'{name}' is no time zone", where="--time-zone", fix="write it as Europe/Berlin, or UTC") from None


def next_times(cron: Cron, after: datetime.datetime, count: int = 3) -> list[datetime.datetime]:
    found: list[datetime.datetime] = []
    while len(found) < count and (one := cron.next(found[-1] if found else after)) is not None:
        found.append(one)
    return found


def _field(word: str, number: int) -> frozenset[int]:
    low, high = _LIMITS[number]
    found: set[int] = set()
    for part in word.split(","):
        match = re.fullmatch(r"(?:([*?])|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", part)
        if match is None:
            raise _wrong(number, part, "write *, 5, 1-5, */15 or a list of them")
        star, first, last, step = match.groups()
        start = low if star else _number(first, number)
        end = high if star or (step and not last) else _number(last, number) if last else start
        if not (low <= start <= high and low <= end <= high):
            raise _wrong(number, part, f"write {low} to {high}")
        if start > end:
            raise _wrong(number, part, "a range goes from the smaller number to the larger")
        if step is not None and int(step) == 0:
            raise _wrong(number, part, "a step is at least 1")
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def _number(word: str, number: int) -> int:
    names = {4: _MONTHS, 5: _DAYS}.get(number, {})
    if word.lower() in names:
        return names[word.lower()]
    if not re.fullmatch(r"[0-9]{1,4}", word):
        raise _wrong(number, word, f"write a number{' or a name such as ' + next(iter(names)) if names else ''}")
    return int(word)


def _wrong(number: int, part: str, fix: str) -> UsageError:
    low, high = _LIMITS[number]
    return UsageError(f"the {NAMES[number]} '{part}' is not in {low} to {high}", where="--cron", fix=fix)


def _star(word: str) -> bool:
    return any(part[0] in "*?" for part in word.split(","))


def _check_pace(cron: Cron) -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    times = next_times(cron, start, 3)
    if not times:
        raise UsageError(f"'{cron.text}' never comes", where="--cron", fix="is there such a day in such a month?")
    if len(cron.fields[0]) > 1:
        raise UsageError(
            f"the first of six fields is the second: '{cron.text}' would start a run every few seconds",
            where="--cron",
            fix='for every 15 minutes: --cron "0 */15 * * * *"',
        )


def _exists(time: datetime.datetime) -> bool:
    """Whether a clock that is put forward shows this time at all."""
    back = time.astimezone(datetime.timezone.utc).astimezone(time.tzinfo)
    return back.replace(tzinfo=None) == time.replace(tzinfo=None)
