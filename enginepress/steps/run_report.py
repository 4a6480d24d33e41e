"""How a run on a cluster ended, step by step, for the exit handler. Also clears away what killed runs left in the workspace."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginepress.report.markdown import fenced
from enginepress.steps.changes_markdown import TRY_NOW, changes_markdown, is_built, times
from enginepress.steps.rebuilt import records_of, remembered
from enginepress.workspace import Workspace

FIND_CHANGED = "find_changed"
KEPT_RUNS = 200
"""Folders in `runs/` that are kept."""
_BEGIN, _END = "----- report -----", "----- end of the report -----"


def in_log(text: str) -> str:
    """A report as it stands in the log of its task, among what others write there."""
    return f"{_BEGIN}\n{text}\n{_END}"


def from_log(log: str) -> str | None:
    """The report in a log, or None."""
    _, begun, rest = log.partition(_BEGIN + "\n")
    text, ended, _ = rest.partition("\n" + _END)
    return text if begun and ended else None


def run_report(workspace: Workspace, run: str, state: str, error: str) -> str:
    """Markdown: a section for each recipe that the run has worked on. It is kept as runs/<run>.md.

    Args:
        state, error: as Kubeflow says that the run ended.
    """
    lines = [f"# Run {run}: {state.lower()}", ""]
    if (looked_at := workspace.read_json("runs", run, "changed.json")) is not None:
        lines += ["## Recipes", "", *changes_markdown(looked_at)]
    # A first try may have failed and the next one not.
    refused = workspace.read_json("runs", run, f"{FIND_CHANGED}.json") if looked_at is None else None
    if refused is not None:
        lines += _what_failed(refused)
    failed = remembered(workspace, run, looked_at, state) if looked_at else {}
    folders = sorted(p for p in workspace.path("runs").glob(f"{run}*") if p.is_dir() and p.name != run)
    for folder in folders:
        lines += _section(folder.name.removeprefix(f"{run}-").rpartition("-")[0], records_of(workspace, folder.name))
        if (failure := failed.get(folder.name)) is not None:
            lines += [f"Held back until {failure['again']}, {times(failure['failures'])}.", ""]
    begun = {folder.name for folder in folders}
    for one in looked_at or ():
        if is_built(one) and one.get("run", "") not in begun:
            lines += [f"## {one['name']}", "", "No step has started; Kubeflow's page and `kubectl get events` say why.", ""]
    if failed:
        lines += [TRY_NOW, ""]
    if not folders and looked_at is None and refused is None:
        lines += ["No step has started.", ""]
    if error:
        lines += ["Kubeflow says:", "", *fenced(error.strip())]
    text = "\n".join(lines)
    workspace.path("runs").mkdir(parents=True, exist_ok=True)
    workspace.path("runs", f"{run}.md").write_text(text, encoding="utf-8")
    _forget_old_runs(workspace.path("runs"))
    workspace.sweep()
    return text


def _section(name: str, records: list[dict[str, Any]]) -> list[str]:
    lines = [f"## {name}", "", "| step | how it ended | seconds | |", "|---|---|---|---|"]
    for record in records:
        lines.append(f"| {record['step']} | {_ended(record)} | {record['seconds']:.1f} | {_said(record)} |")
    lines.append("")
    for record in records:
        if record.get("error") is not None:
            lines += _what_failed(record)
    return lines


def _what_failed(record: Mapping[str, Any]) -> list[str]:
    error = record["error"]
    where = f"{error['where']}: " if error.get("where") else ""
    lines = [f"**{record['step']} failed.** {where}{error['message']}", ""]
    return [*lines, f"What to do: {error['fix']}", ""] if error.get("fix") else lines


def _ended(record: Mapping[str, Any]) -> str:
    status: str = record["status"]
    return "was killed, or its node was lost; run it again, and it goes on from there" if status == "running" else status


def _said(record: Mapping[str, Any]) -> str:
    facts = record.get("facts") or {}
    for key in ("skipped", "release", "revision_id"):
        if facts.get(key):
            return f"{key} {facts[key]}" if key != "skipped" else str(facts[key])
    return ""


def _forget_old_runs(folder: Path) -> None:
    runs = sorted(folder.iterdir(), key=_last_changed)
    for old in runs[:-KEPT_RUNS]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _last_changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another run's exit handler has removed it
        return 0.0
