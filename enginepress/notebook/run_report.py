"""What the gate found, for a notebook: verdict, figures, checks, charts. In the words and with the charts of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginepress.notebook import html
from enginepress.report import key_figures, prompt_text, verdict
from enginepress.report.html import safe_text, speed_charts

if TYPE_CHECKING:
    from enginepress.steps.report import Report

MAX_PROMPTS = 5


def report_parts(report: Report) -> list[str]:
    """HTML of one report."""
    data = report.to_json()
    gate = data["gate"]
    parts = [html.head("What the gate found"), f"<div>{safe_text(verdict(data))}</div>"]
    if data["error"] is not None:
        parts.append(html.block(str(data["error"]["message"])))
    if figures := key_figures(data):
        parts.append(_figures(figures))
    if gate is None:
        return parts
    parts.append(_checks(gate["checks"]))
    if gate["prompts"]:
        parts.append(_answers(gate["prompts"]))
    charts = speed_charts(gate)
    if charts:
        drawn = "".join(f"{html.head(title)}{html.chart(svg)}" for title, svg in charts)
        parts.append(drawn)
    return parts


def _figures(figures: list[tuple[str, str]]) -> str:
    box = f"border:1px solid {html.LINE};border-radius:8px;padding:6px 12px;flex:1 1 120px"
    tiles = "".join(
        f'<div style="{box}"><div style="font-size:19px;font-weight:650">{safe_text(value)}</div>{html.soft(name)}</div>'
        for name, value in figures
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin:8px 0">{tiles}</div>'


def _checks(checks: list[dict[str, Any]]) -> str:
    rows = []
    for check in sorted(checks, key=lambda c: bool(c["passed"])):
        mark = html.coloured("✔", html.GREEN) if check["passed"] else html.coloured("✘", html.RED)
        detail = f"<div>{html.soft(check['detail'])}</div>" if check["detail"] else ""
        rows.append((mark, safe_text(check["name"]) + detail, safe_text(check["measured"]), html.soft(check["wanted"])))
    return html.table(rows, ("", "check", "measured", "wanted"))


def _answers(prompts: list[dict[str, Any]]) -> str:
    shown = "".join(
        html.block(f"{prompt_text(p)}\n→ {p['answer'] if p['answer'] is not None else '(no answer)'}")
        for p in prompts[:MAX_PROMPTS]
    )
    more = html.soft(f"and {len(prompts) - MAX_PROMPTS} more in the report") if len(prompts) > MAX_PROMPTS else ""
    summary = f'<summary style="cursor:pointer;color:{html.GREY}">{len(prompts)} prompts and answers</summary>'
    return f'<details style="margin-top:8px">{summary}{shown}{more}</details>'
