"""The report as one HTML file that needs nothing else: no scripts, no fonts, no pictures from anywhere.

What a model says is the text of a stranger. Everything is escaped, control characters are shown as symbols, text that runs
from right to left stays within its box, and the page itself forbids scripts and connections.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from enginepress.report import fact_rows, key_figures, prompt_text, seconds_text, verdict
from enginepress.report.charts import Bar, bars, histogram
from enginepress.report.style import STYLE
from enginepress.serving.gate_result import percent

# Beyond this a difference is marked from its first place to the end, as comparing word by word would take minutes.
MAX_COMPARED_WORDS = 3000


def report_html(report: Mapping[str, Any]) -> str:
    """The page."""
    gate = report["gate"]
    name = str(report["facts"].get("name", "model"))
    state = "passed" if report["passed"] else "failed"
    parts = [_header(report, name, state)]
    if report["error"] is not None:
        parts.append(_error(report["error"]))
    if not report["validation"]["ok"]:
        parts.append(_validation(report["validation"]))
    if gate is not None:
        parts += [_checks(gate["checks"]), _prompts(gate["prompts"], has_reference=gate["reference"] is not None)]
        parts.append(_speed(gate))
    parts.append(_steps(report["facts"].get("step_seconds") or {}))
    if report["validation"]["ok"] and report["validation"].get("findings"):
        parts.append(_validation(report["validation"]))
    parts.append(_facts(fact_rows(report)))
    title = f"{_text(name)}: {state}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


# Sections -------------------------------------------------------------------------------------------------------------


def _header(report: Mapping[str, Any], name: str, state: str) -> str:
    figures = "".join(f"<li><b>{_text(value)}</b>{_text(label)}</li>" for label, value in key_figures(report))
    return (
        f'<header class="{state}"><div class="top"><h1>{_text(name)}</h1><span class="badge">{state.capitalize()}</span>'
        f"<p>{_text(verdict(report))}</p></div>" + (f'<ul class="figures">{figures}</ul>' if figures else "") + "</header>"
    )


def _error(error: Mapping[str, Any]) -> str:
    where = f'<p class="note">{_text(error["where"])}</p>' if error.get("where") else ""
    fix = f'<p class="note">What to do: {_text(error["fix"])}</p>' if error.get("fix") else ""
    return f"<section><h2>What went wrong</h2>{_pre(_text(error['message']))}{where}{fix}</section>"


def _validation(validation: Mapping[str, Any]) -> str:
    rows = []
    for finding in validation["findings"]:
        bad = finding["severity"] == "error"
        fix = f'<div class="detail">{_text(finding["fix"])}</div>' if finding.get("fix") else ""
        rows.append(
            f'<tr{" class=no" if bad else ""}><td class="measured">{_text(finding["severity"])}</td>'
            f"<td>{_text(finding['file'])}</td><td>{_text(finding['message'])}{fix}</td></tr>"
        )
    return f"<section><h2>Offline validation</h2><table>{''.join(rows)}</table></section>"


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    # What failed comes first, otherwise the order in which it was checked.
    for check in sorted(checks, key=lambda c: bool(c["passed"])):
        detail = f'<div class="detail">{_text(check["detail"])}</div>' if check["detail"] else ""
        rows.append(
            f'<tr{"" if check["passed"] else " class=no"}><td class="mark">{"✔" if check["passed"] else "✘"}</td>'
            f'<td>{_text(check["name"])}{detail}</td><td class="measured">{_text(check["measured"])}</td>'
            f"<td>{_text(check['wanted'])}</td></tr>"
        )
    head = "<thead><tr><th></th><th>check</th><th>measured</th><th>wanted</th></tr></thead>"
    return f'<section><h2>Checks</h2><table class="checks">{head}<tbody>{"".join(rows)}</tbody></table></section>'


def _prompts(prompts: Sequence[Mapping[str, Any]], *, has_reference: bool) -> str:
    note = "" if has_reference else '<p class="note">No reference: the answers were not compared with anything.</p>'
    shown = "".join(_prompt(number, prompt) for number, prompt in enumerate(prompts, 1))
    return f"<section><h2>Prompts and answers</h2>{note}{shown}</section>"


def _prompt(number: int, prompt: Mapping[str, Any]) -> str:
    answer, reference = prompt["answer"], prompt["reference"]
    head = [f"<b>Prompt {number}</b>"]
    if prompt["tokens"] is not None:
        reason = f", {prompt['finish_reason']}" if prompt["finish_reason"] else ""
        head.append(f"<span>{prompt['tokens']} tokens{_text(reason)}</span>")
    if prompt["total_s"] is not None:
        head.append(f"<span>{seconds_text(prompt['total_s'])}</span>")
    if prompt["of"]:
        head.append(f"<span>{percent(prompt['matched'] / prompt['of'])} of the reference's tokens</span>")
    parts = [f'<div class="head">{"".join(head)}</div>', f"<h3>Prompt</h3>{_pre(_text(prompt_text(prompt)))}"]
    if answer is None:
        parts.append('<h3>Answer</h3><p><span class="badge no">no answer</span></p>')
    elif reference is None or reference == answer:
        label = "Answer" if reference is None else "Answer, exactly as in the reference"
        parts.append(f"<h3>{label}</h3>{_pre(_text(answer))}")
    else:
        served, wanted = marked_difference(answer, reference)
        parts.append(f"<h3>Answer</h3>{_pre(served)}<h3>Reference</h3>{_pre(wanted)}")
    if prompt["ways"]:
        rows = "".join(f"<tr><th>{_text(way)}</th><td>{_text(said)}</td></tr>" for way, said in prompt["ways"].items())
        parts.append(f'<h3>The ways of asking do not agree</h3><table class="facts">{rows}</table>')
    return f'<div class="prompt">{"".join(parts)}</div>'


def _speed(gate: Mapping[str, Any]) -> str:
    load, limits = gate["load"], gate["limits"]
    if load is None:
        return ""
    together = f"{load['concurrency']} at a time"
    floor = limits.get("min_tokens_per_second")
    speed = [Bar("one at a time (median)", alone, f"{alone:.0f}")] if (alone := _single_speed(gate["prompts"])) else []
    value = load["tokens_per_second"]
    speed.append(Bar(together, value, f"{value:.0f}", floor, floor is None or value >= floor))
    parts = [f"<h3>Tokens per second</h3>{bars('Tokens per second', speed)}"]
    if load["median_first_token_s"] is not None:
        ceiling = limits.get("max_first_token_ms")
        first = load["median_first_token_s"] * 1000
        items = [Bar("alone (median)", first, f"{first:.1f} ms", ceiling, ceiling is None or first <= ceiling)]
        if load["first_token_s"]:
            busy = sorted(load["first_token_s"])[len(load["first_token_s"]) // 2] * 1000
            items.append(Bar(f"{together} (median)", busy, f"{busy:.1f} ms"))
        parts.append(f"<h3>Time to first token</h3>{bars('Time to first token', items)}")
    if load["latencies_s"]:
        percentiles = load["latency_percentiles_s"]
        marks = [(f"p{p} {seconds_text(percentiles[p])}", percentiles[p] * 1000) for p in ("50", "90", "99")]
        chart = histogram("Latency distribution", [s * 1000 for s in load["latencies_s"]], marks, unit="ms")
        parts.append(f"<h3>Latency of whole requests, {_text(together)}</h3>{chart}")
    count = f"{load['answered']} requests of {load['max_tokens']} tokens, {together}, in {seconds_text(load['wall_s'])}"
    lines = " The line in a bar is the recipe's limit." if limits else ""
    failed = f" {load['failed']} requests failed." if load["failed"] else ""
    return f'<section><h2>Speed</h2>{"".join(parts)}<p class="note">{_text(count)}.{_text(failed + lines)}</p></section>'


def _steps(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    chart = bars("Seconds per step", [Bar(step, value, seconds_text(value)) for step, value in seconds.items()])
    return f"<section><h2>Steps</h2>{chart}</section>"


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f'<section><h2>What it is</h2><table class="facts">{cells}</table></section>'


# Text -----------------------------------------------------------------------------------------------------------------


def marked_difference(served: str, reference: str) -> tuple[str, str]:
    """Both texts as HTML: what only the answer has is marked <ins>, what only the reference has <del>."""
    a, b = _words(served), _words(reference)
    if max(len(a), len(b)) > MAX_COMPARED_WORDS:
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        spans = [("equal", 0, at, 0, at), ("replace", at, len(a), at, len(b))]
    else:
        spans = list(difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes())
    left, right = [], []
    for kind, a1, a2, b1, b2 in spans:
        mine, other = _text("".join(a[a1:a2])), _text("".join(b[b1:b2]))
        left.append(mine if kind == "equal" or not mine else f"<ins>{mine}</ins>")
        right.append(other if kind == "equal" or not other else f"<del>{other}</del>")
    return "".join(left), "".join(right)


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def _pre(escaped: str) -> str:
    """A block of text as it is. HTML drops the first line break in one, so it gets one to drop."""
    return f"<pre>\n{escaped}</pre>"


def _text(value: object) -> str:
    """Escaped text, with control characters as the symbols that Unicode has for them."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]",
        lambda m: chr(0x2400 + ord(m[0])) if ord(m[0]) < 32 else "␡" if m[0] == "\x7f" else "�",
        escape(str(value), quote=True),
    )


def _single_speed(prompts: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens per second of the prompts, asked one at a time: the median."""
    speeds = sorted(p["tokens"] / p["total_s"] for p in prompts if p["tokens"] and p["total_s"])
    return speeds[len(speeds) // 2] if speeds else None
