"""Charts of a report as inline SVG: horizontal bars and a histogram. Pure functions from numbers to text.

Colours come from the page's style sheet, so that a chart is readable on a light and on a dark page. Every label is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
_LABEL = 190
_VALUE = 96


@dataclass(frozen=True)
class Bar:
    """One horizontal bar; `limit` draws a mark that it should reach, or stay below."""

    label: str
    value: float
    shown: str
    limit: float | None = None
    good: bool = True


def bars(title: str, items: Sequence[Bar]) -> str:
    """Horizontal bars on one scale that starts at zero."""
    top = max([*(b.value for b in items), *(b.limit for b in items if b.limit is not None), 1e-9])
    room = WIDTH - _LABEL - _VALUE
    rows = []
    for index, bar in enumerate(items):
        y = 6 + index * 30
        length = max(1.5, room * bar.value / top)
        kind = "bar" if bar.good else "bar bad"
        rows.append(
            f'<text class="label" x="{_LABEL - 10}" y="{y + 15}" text-anchor="end">{escape(_short(bar.label, 26))}</text>'
            f'<rect class="track" x="{_LABEL}" y="{y}" width="{room}" height="21" rx="3"/>'
            f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{length:.1f}" height="21" rx="3"/>'
            f'<text class="value" x="{_LABEL + room + 10}" y="{y + 15}">{escape(bar.shown)}</text>'
        )
        if bar.limit is not None:
            x = _LABEL + room * bar.limit / top
            rows.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + 24}"/>')
    return _svg(title, 12 + 30 * len(items), "".join(rows))


def histogram(title: str, values: Sequence[float], marks: Sequence[tuple[str, float]], *, unit: str, count: int = 24) -> str:
    """How often which value occurred, with marked places (percentiles) above.

    Args:
        values: at least one.
        marks: label and value; labels stand in two rows, so that neighbours do not cover each other.
        unit: written behind the ends of the axis.
    """
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    counts = [0] * count
    for value in values:
        counts[min(count - 1, int((value - low) / (high - low) * count))] += 1
    left, right, top, bottom = 36, WIDTH - 12, 46, 190
    step = (right - left) / count

    def x_of(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    most = max(counts)
    for index, number in enumerate(counts):
        if number:
            height = (bottom - top) * number / most
            parts.append(
                f'<rect class="bar" x="{left + index * step + 1:.1f}" y="{bottom - height:.1f}" width="{step - 2:.1f}" '
                f'height="{height:.1f}" rx="2"><title>{number}</title></rect>'
            )
    parts.append(f'<text class="tick" x="{left - 8}" y="{top + 4}" text-anchor="end">{most}</text>')
    parts.append(f'<text class="tick" x="{left - 8}" y="{bottom}" text-anchor="end">0</text>')
    for tick in range(5):
        value = low + (high - low) * tick / 4
        anchor = ("start", "middle", "middle", "middle", "end")[tick]
        shown = f"{_axis(value)} {escape(unit)}"
        parts.append(f'<text class="tick" x="{x_of(value):.1f}" y="{bottom + 17}" text-anchor="{anchor}">{shown}</text>')
    for index, (label, value) in enumerate(marks):
        x = x_of(min(max(value, low), high))
        y = 14 + 15 * (index % 2)
        anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{bottom}"/>')
        parts.append(f'<text class="marked" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>')
    return _svg(title, 214, "".join(parts))


def _svg(title: str, height: int, body: str) -> str:
    name = escape(title)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>{body}</svg>'


def _axis(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
