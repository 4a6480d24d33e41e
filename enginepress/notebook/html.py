"""Pieces of HTML for notebooks: styles in the elements only, readable on light and dark pages, everything escaped.

Front ends take style sheets and scripts away from output that they do not trust, and lay their own table styles over ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from enginepress.report.html import safe_text

BLUE, GREEN, RED, AMBER, GREY = "#4a7fe0", "#2e9e5b", "#d64537", "#c98512", "#8a94a3"
TRACK = "rgba(128,128,128,.18)"
LINE = "rgba(128,128,128,.3)"

_CELL = "text-align:left;vertical-align:top;padding:3px 14px 3px 0;background:none;border:0;white-space:normal"
_SVG_STYLES = {
    "label": "fill:currentColor",
    "value": "fill:currentColor",
    "track": f"fill:{TRACK}",
    "bar": f"fill:{BLUE}",
    "bar bad": f"fill:{RED}",
    "limit": "stroke:currentColor;stroke-width:3",
    "axis": f"stroke:{LINE}",
    "tick": f"fill:{GREY};font-size:12px",
    "mark": f"stroke:{AMBER};stroke-dasharray:4 3",
    "marked": f"fill:{AMBER};font-size:12px",
}


def card(*parts: str) -> str:
    """What one object shows."""
    box = f"max-width:900px;border:1px solid {LINE};border-radius:8px"
    style = f"{box};padding:12px 16px;margin:4px 0;font-size:13px;line-height:1.45"
    return f'<div style="{style}">{"".join(parts)}</div>'


def title(text: str, note: str = "", mark: str = "", colour: str = GREY) -> str:
    """The first line of a card: what it is, how it stands, and a few words."""
    badge = f'<span style="margin-left:10px">{pill(mark, colour)}</span>' if mark else ""
    return (
        f'<div style="margin-bottom:8px"><b style="font-size:15px">{safe_text(text)}</b>{badge}'
        f'<span style="color:{GREY};margin-left:10px">{safe_text(note)}</span></div>'
    )


def head(text: str) -> str:
    return f'<div style="font-weight:600;color:{GREY};margin:12px 0 3px">{safe_text(text)}</div>'


def pill(text: str, colour: str) -> str:
    box = f"display:inline-block;padding:0 9px;border-radius:99px;border:1px solid {colour}"
    style = f"{box};color:{colour};font-weight:600;margin-right:6px;white-space:nowrap"
    return f'<span style="{style}">{safe_text(text)}</span>'


def coloured(text: str, colour: str) -> str:
    return f'<span style="color:{colour}">{safe_text(text)}</span>'


def soft(text: str) -> str:
    return coloured(text, GREY)


def code(text: str) -> str:
    """A short name, on one line."""
    return f'<code style="background:{TRACK};padding:1px 4px;border-radius:3px;white-space:nowrap">{safe_text(text)}</code>'


def block(text: str) -> str:
    """Lines as they are."""
    box = f"background:{TRACK};padding:8px 10px;border-radius:6px;margin:2px 0"
    style = f"{box};white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px"
    return f'<pre style="{style}">\n{safe_text(text)}</pre>'


def link(address: str, text: str) -> str:
    """A link to a page or a file; to nothing else, whatever the address says."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", address) and not address.startswith(("http://", "https://")):
        return safe_text(text)
    return f'<a href="{safe_text(address)}" target="_blank" rel="noopener">{safe_text(text)}</a>'


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = (), *, ruled: frozenset[int] = frozenset()) -> str:
    """A table of cells that are HTML already.

    Args:
        heads: plain text.
        ruled: numbers of rows with a line above.
    """
    lines = []
    if heads:
        cells = "".join(f'<th style="{_CELL};color:{GREY};font-weight:600">{safe_text(h)}</th>' for h in heads)
        lines.append(f'<tr style="background:none">{cells}</tr>')
    for number, row in enumerate(rows):
        rule = f";border-top:1px solid {LINE}" if number in ruled else ""
        cells = "".join(f'<td style="{_CELL}{rule}">{cell}</td>' for cell in row)
        lines.append(f'<tr style="background:none">{cells}</tr>')
    return f'<table style="border-collapse:collapse;font-size:13px;margin:0;border:0">{"".join(lines)}</table>'


def stacked(parts: Sequence[tuple[str, float, str, str]], total: float) -> str:
    """One bar of several parts, with what they are below it.

    Args:
        parts: name, size, the size in words, colour.
        total: the size of the whole bar; what the parts leave of it stays empty.
    """
    whole = max(total, sum(size for _, size, _, _ in parts), 1e-9)
    pieces = "".join(
        f'<div title="{safe_text(f"{name}: {words}")}" style="width:{100 * size / whole:.2f}%;background:{colour}"></div>'
        for name, size, words, colour in parts
        if size > 0
    )
    mark = ""
    if whole > total:
        at = f"position:absolute;left:{100 * total / whole:.2f}%;top:-3px;bottom:-3px"
        mark = f'<div style="{at};border-left:3px solid {RED}"></div>'
    legend = "".join(
        f'<span style="margin-right:16px;white-space:nowrap"><span style="display:inline-block;width:10px;height:10px;'
        f'border-radius:2px;background:{colour};margin-right:5px"></span>{safe_text(name)} {soft(words)}</span>'
        for name, _, words, colour in parts
    )
    bar = f"position:relative;display:flex;height:18px;background:{TRACK};border-radius:4px;margin:4px 0 6px"
    return f'<div style="{bar}">{pieces}{mark}</div><div style="line-height:1.7">{legend}</div>'


def small_bar(share: float, colour: str, width: int = 160) -> str:
    """A bar for a cell; `share` of its width."""
    inner = f"height:9px;border-radius:3px;background:{colour};width:{100 * min(1.0, max(0.0, share)):.1f}%"
    outer = f"display:inline-block;width:{width}px;height:9px;border-radius:3px;background:{TRACK};vertical-align:middle"
    return f'<span style="{outer}"><span style="display:block;{inner}"></span></span>'


def chart(svg: str) -> str:
    """A chart of the report, whose colours come from a style sheet there."""
    styled = re.sub(r'class="([a-z ]+)"', lambda m: f'style="{_SVG_STYLES.get(m[1], "")}"', svg)
    return styled.replace(
        "<svg ", '<svg style="width:100%;max-width:720px;height:auto;display:block;font:13px system-ui,sans-serif" ', 1
    )
