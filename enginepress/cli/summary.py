"""What a run ends with: what was built, where it lies, what the gate found, what the model said, and what to try next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.typed import completed

if TYPE_CHECKING:
    from enginepress.recipe import Recipe
    from enginepress.run.local import RunResult
    from enginepress.steps.report import Report
    from enginepress.workspace import Workspace


def print_summary(path: Path, recipe: Recipe, workspace: Workspace, result: RunResult) -> None:
    """The end of a run that did something."""
    from enginepress.steps.register import newest_report
    from enginepress.stores.open import open_store

    store = open_store(recipe.stores[0])
    report = newest_report(store, recipe.name, result.release)
    engine = recipe.engine
    _head(f"{recipe.name} release {result.release}")
    _line("built", f"{engine.builder} {engine.precision} from {recipe.source.uri} at {result.plan.revision_id[:12]}")
    _line("lies in", _near(store.repository(recipe.name, result.release) or store.location(recipe.name, result.release)))
    for channel in recipe.channels:
        followed = store.channel_path(recipe.name, channel)
        _line("channel", f"{channel} -> {_near(followed) if followed is not None else f'release {result.release}'}")
    steps = ", ".join(f"{s['step']} {s['seconds']:.1f}" for s in result.steps)
    rest = result.seconds - sum(s["seconds"] for s in result.steps)
    _line("time", f"{result.seconds:.1f} s: {steps}; the other {rest:.1f} started kfp and {len(result.steps)} tasks")
    if report is not None:
        print_gate(report)
        attempt = workspace.path("reports", f"{result.plan.build_key}-{result.plan.checks_digest}")
        for html in sorted(attempt.glob("*/report.html"))[-1:]:
            _line("report", _near(html))
    for note in result.notes:
        _line("note", completed(note))
    where = f" -w {shlex.quote(_near(workspace.root))}"
    me = shlex.quote(str(path))
    commands = {
        **_reachable(),
        f"enginepress serve {me}": "serve it here and ask it something",
        f"enginepress run {me}{where}": "nothing to do now; change the recipe and see what is rebuilt",
        f"enginepress releases {me}": "what is published, and which channel is where",
        f"enginepress doctor {me}{where}": "does everything agree?",
    }
    _head("next")
    for command, purpose in commands.items():
        click.echo(f"  {command:<{max(map(len, commands))}}  {purpose}")


def _reachable() -> dict[str, str]:
    """What to type first where the shell would not find the commands: after `make run`, which calls them by their path."""
    activate = Path(sys.executable).with_name("activate")
    if shutil.which("enginepress") is not None or not activate.exists():
        return {}
    return {f". {shlex.quote(_near(activate))}": "once in a shell: puts enginepress on its PATH"}


def print_gate(report: Report) -> None:
    """The gate's checks and the model's answers, one line each."""
    from enginepress.serving.gate_result import CheckResult, PromptResult

    gate = report.gate
    if gate is None:
        _line("gate", report.failure or "not served: the recipe says checks.served: false")
        return
    passed = sum(check.passed for check in gate.checks)
    said = f"{passed} of {len(gate.checks)} checks passed on Triton {gate.server_version}"
    if gate.reference is None:
        said += "; no reference"
    _line("gate", said)
    check: CheckResult
    for check in gate.checks:
        mark = click.style("✔", fg="green") if check.passed else click.style("✘", fg="red")
        detail = f" {check.detail}" if check.detail else ""
        click.echo(f"    {mark} {check.name}: {check.measured} (wanted: {check.wanted}){detail}")
    prompt: PromptResult
    for prompt in gate.prompts:
        asked = prompt.text if prompt.text is not None else " / ".join(m["content"] for m in prompt.messages or ())
        _line("asked", asked)
        _line("answer", prompt.answer if prompt.answer is not None else "none")


def _near(path: Path | str) -> str:
    """The path as one would type it here; a URL as it is."""
    if "://" in str(path):
        return str(path)
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _head(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def _line(name: str, text: str) -> None:
    first, *rest = text.split("\n") or [""]
    click.echo(f"  {name:<8} {first}")
    for more in rest:
        click.echo(" " * 11 + more)
