"""The report of a gate for people: Markdown (shown by Kubeflow and MLflow) and one HTML file, made from the report's JSON.

    {"passed": …, "failure": "…", "served": …,
     "facts": {"name": …, "source": …, "revision": …, "build_key": …, "content_digest": …, "engine": {…},
               "environment": {…}, "step_seconds": {"build": 4.2, …}},
     "validation": {"ok": …, "findings": [{"severity": …, "file": …, "message": …, "fix": …}]},
     "gate": GateResult.to_json() | null, "error": EnginepressError.to_json() | null}

Prompts and answers are text of strangers: in Markdown they stand in fenced blocks, in HTML they are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.files import write_atomic
from enginepress.quantities import duration_text
from enginepress.report.markdown import fenced, inline, table
from enginepress.serving.gate_result import percent

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "report.json", "report.md", "report.html"


def write_report_files(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes report.json, report.md and report.html into an existing folder and returns their paths.

    Raises:
        OSError: if the folder cannot be written.
    """
    from enginepress.report.html import report_html

    texts = {
        JSON_NAME: json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        MARKDOWN_NAME: report_markdown(report),
        HTML_NAME: report_html(report),
    }
    for name, text in texts.items():
        # A lone surrogate is nothing that UTF-8 can hold; JSON from elsewhere may carry one.
        write_atomic(folder / name, text.encode("utf-8", errors="backslashreplace"))
    return [folder / name for name in texts]


def verdict(report: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    gate = report["gate"]
    if gate is None:
        if report["passed"]:
            return "Valid; not served, as the recipe wants it."
        return "Not valid." if not report["validation"]["ok"] else "Could not be served."
    failed = sum(not check["passed"] for check in gate["checks"])
    if not report["passed"]:
        return f"{failed} of {len(gate['checks'])} checks failed." if failed else "Not valid."
    compared = "" if gate["reference"] is not None else " There was no reference to compare the answers with."
    return f"All {len(gate['checks'])} checks passed.{compared}"


def key_figures(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that people look for first: name and value with unit."""
    gate = report["gate"]
    if gate is None:
        return []
    figures = []
    if gate["agreement"] is not None and gate["agreement"]["of"]:
        figures.append(("tokens as in the reference", percent(gate["agreement"]["matched"] / gate["agreement"]["of"])))
    load = gate["load"]
    if load is not None:
        if load["median_first_token_s"] is not None:
            figures.append(("time to first token", seconds_text(load["median_first_token_s"])))
        figures.append((f"tokens/s, {load['concurrency']} at a time", f"{load['tokens_per_second']:.0f}"))
        figures.append((f"requests/s, {load['concurrency']} at a time", f"{load['requests_per_second']:.1f}"))
    figures.append(("until ready", seconds_text(gate["ready_s"])))
    return figures


def fact_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was built, from what and with what, flat and in reading order."""
    facts, gate = report["facts"], report["gate"]
    rows: list[tuple[str, str]] = []
    for key in ("name", "source", "revision", "build_key", "content_digest", "checks_digest"):
        if facts.get(key):
            rows.append((key.replace("_", " "), str(facts[key])))
    for section in ("engine", "environment"):
        rows += [(f"{section}: {name}", value) for name, value in _flat(facts.get(section) or {})]
    if gate is not None:
        rows.append(("server", f"Triton {gate['server_version']}"))
        if gate["reference"] is not None:
            made_with = ", ".join(f"{name} {version}" for name, version in sorted(gate["reference"]["made_with"].items()))
            rows.append(("reference", gate["live"] or f"{gate['reference']['source']}" + (f", {made_with}" if made_with else "")))
        else:
            rows.append(("reference", "no reference" + (f": {gate['live']}" if gate["live"] else "")))
    return rows


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: verdict, figures, checks, answers, steps, facts."""
    gate = report["gate"]
    name = str(report["facts"].get("name", "model"))
    lines = [f"# {inline(name)}: {'passed' if report['passed'] else 'failed'}", "", inline(verdict(report)), ""]
    if report["error"] is not None:
        lines += ["## What went wrong", "", *fenced(str(report["error"]["message"]))]
    if figures := key_figures(report):
        lines += table(("figure", "value"), figures)
    if findings := report["validation"].get("findings"):
        found = [(f["severity"], f["file"], f["message"]) for f in findings]
        lines += ["## Validation", "", *table(("", "file", "finding"), found, code=2)]
    if gate is not None:
        rows = [
            ("yes" if c["passed"] else "NO", c["name"], c["measured"], c["wanted"], _cut(c["detail"], 300))
            for c in gate["checks"]
        ]
        lines += ["## Checks", "", *table(("passed", "check", "measured", "wanted", "detail"), rows, code=4)]
        lines += ["## Answers", ""]
        for number, prompt in enumerate(gate["prompts"], 1):
            lines += [f"### Prompt {number}", "", *fenced(prompt_text(prompt)), "Answer", ""]
            lines += fenced("(no answer)" if prompt["answer"] is None else prompt["answer"])
            if prompt["reference"] is not None and prompt["reference"] != prompt["answer"]:
                lines += ["Reference", "", *fenced(prompt["reference"])]
    if seconds := report["facts"].get("step_seconds"):
        lines += ["## Steps", "", *table(("step", "seconds"), [(s, f"{v:.2f}") for s, v in seconds.items()])]
    lines += ["## What it is", "", *table(("", ""), fact_rows(report), code=1)]
    return "\n".join(lines).rstrip() + "\n"


# Words ----------------------------------------------------------------------------------------------------------------


def prompt_text(prompt: Mapping[str, Any]) -> str:
    """What was asked; a chat with its roles."""
    if prompt["messages"] is None:
        return str(prompt["text"])
    return "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in prompt["messages"])


def seconds_text(seconds: float) -> str:
    """A time in the unit in which people read it."""
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return duration_text(int(seconds))


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
