"""`enginepress validate`: is this a model repository that Triton can serve?"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from enginepress.repository.findings import Finding
    from enginepress.repository.validate import ValidationResult

_COLORS = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command(short_help="Check a model repository or a release offline.")
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(path: str, *, as_json: bool) -> None:
    """Check a model repository or a release folder, made by enginepress or not, without a server.

    Reads every config.pbtxt and what it refers to; runs nothing. Of a release, every file is compared with its manifest.

    Exit status: 0 nothing wrong, 1 errors found, 2 no such path.
    """
    from pathlib import Path

    from enginepress.repository.validate import validate as check

    result = check(Path(path))
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
    else:
        _show(result)
    sys.exit(0 if result.ok else 1)


def _show(result: ValidationResult) -> None:
    for finding in result.findings:
        _show_finding(finding, result.shown_path)
    if result.kind == "release":
        what = f"release {result.release}"
    else:
        what = "unplaced repository" if result.kind == "unplaced" else "repository"
    count = len(result.models)
    models = f"{count} model" + ("" if count == 1 else "s")
    verdict = f"{_count(len(result.errors), 'error')}, {_count(len(result.warnings), 'warning')}"
    color = "red" if result.errors else "green"
    click.echo(f"{result.shown_path}: {what}, {models}: " + click.style(verdict, fg=color, bold=True))


def _show_finding(finding: Finding, checked: str) -> None:
    severity = click.style(finding.severity, fg=_COLORS[finding.severity], bold=True)
    click.echo(f"{severity}: {checked if finding.file == '.' else finding.file}: {finding.message}")
    if finding.fix:
        click.echo(f"  -> {finding.fix}")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")
