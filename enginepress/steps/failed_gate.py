"""The report of a gate that said no, for the exit handler: Kubeflow shows nothing of what a failed step has left."""

from __future__ import annotations

import json
from pathlib import Path

from enginepress.workspace import Workspace

NONE = '<!doctype html><meta charset="utf-8"><title>No gate failed</title><p>No gate failed in this run.</p>\n'


def failed_gate_page(workspace: Workspace, run: str) -> str:
    """HTML: the report of the first gate of this run that failed, or that none did."""
    reports = workspace.path("reports").absolute()
    for path in sorted(workspace.path("runs").glob(f"{run}*/verify.json")):
        try:
            record = json.loads(path.read_text())
            page = Path(str(record["error"]["where"])) if record["status"] == "failed" else None
            if page is not None and page.suffix == ".html" and reports in page.absolute().parents:
                return page.read_text(encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it failed before there was a report; the summary says why
    return NONE
