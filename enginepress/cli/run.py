"""`enginepress run`: builds and publishes a recipe, with progress for people and JSON for scripts."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from enginepress.cli.options import json_option, open_workspace, recipe_argument, workspace_option
from enginepress.cli.typed import complete_fix, completed
from enginepress.errors import EnginepressError

if TYPE_CHECKING:
    from enginepress.run.local import Follow


LOG_EVERY_S = 30.0
"""In a log, a step that takes long says so often how far it is."""


@click.command(short_help="Build, gate, publish and register a recipe.")
@recipe_argument
@workspace_option
@click.option("--force", is_flag=True, help="Build and gate again even if nothing has changed. Downloads are kept.")
@click.option("--no-wait", is_flag=True, help="Fail at once if another run of this recipe is at work.")
@json_option
def run(recipe: Path, workspace: str, force: bool, no_wait: bool, as_json: bool) -> None:
    """Build, gate, publish and register what RECIPE says, or find that nothing is to do.

    Killed or failed runs go on where they stopped: run the same command again.
    """
    from enginepress.recipe_file import load_recipe
    from enginepress.run.local import run_recipe

    loaded = load_recipe(recipe)
    place = open_workspace(workspace)
    signal.signal(signal.SIGTERM, _end)

    def on_wait(holder: str) -> None:
        click.echo(f"waiting for {holder}", err=True)

    try:
        with _progress() as follow:
            result = run_recipe(loaded, place, force=force, wait=not no_wait, on_wait=on_wait, follow=follow)
    except EnginepressError as error:
        if as_json:
            complete_fix(error)
            click.echo(json.dumps({"name": loaded.name, "error": error.to_json()}, indent=2))
        raise
    if as_json:
        click.echo(
            json.dumps(
                {
                    "name": loaded.name,
                    "up_to_date": result.up_to_date,
                    "release": result.release,
                    "build_key": result.plan.build_key,
                    "revision": result.plan.revision_id,
                    "run": result.run,
                    "seconds": round(result.seconds, 3),
                    "steps": {s["step"]: s["seconds"] for s in result.steps},
                    "notes": result.notes,
                },
                indent=2,
            )
        )
        return
    if result.up_to_date:
        click.echo(f"up to date: {loaded.name} release {result.release} in {loaded.stores[0].url}")
        for note in result.notes:
            click.echo(f"note: {completed(note)}")
        return
    from enginepress.cli.summary import print_summary

    print_summary(recipe, loaded, place, result)


def _end(*_: object) -> NoReturn:
    """SIGTERM ends a run in order, as Ctrl-C does: what works for it is ended, and its locks are free."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    click.echo("ended by SIGTERM: finished steps are kept; run it again to go on", err=True)
    sys.exit(128 + signal.SIGTERM)


class _progress:
    """A context that gives the function to tell how steps go: a live display on a terminal, plain lines elsewhere."""

    def __enter__(self) -> Follow:
        if sys.stderr.isatty():
            from enginepress.cli.live import LiveSteps

            self._live = LiveSteps()
            return self._live.follow
        self._live = None  # type: ignore[assignment]
        started = last = time.monotonic()

        def follow(step: str, status: str, text: str) -> None:
            nonlocal last
            now = time.monotonic()
            if status != "running" or (text and now - last > LOG_EVERY_S):
                last = now
                click.echo(f"{now - started:6.1f} s  {step:<9} {status}" + (f"  {text}" if text else ""), err=True)

        return follow

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.close()
