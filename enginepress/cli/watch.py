"""`enginepress watch`: builds what has changed, again and again, or once from cron."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import json_option, open_workspace, workspace_option
from enginepress.errors import UsageError

if TYPE_CHECKING:
    from enginepress.run.watch_record import Pass


def _pause(_: click.Context, __: click.Parameter, value: str) -> float:
    from enginepress.quantities import parse_duration

    try:
        seconds = parse_duration(value)
    except UsageError:
        seconds = 0.0
    if not seconds:
        raise click.BadParameter(f"'{value}' is no duration; write 90s, 15m, 2h or 1d")
    return seconds


@click.command(short_help="Build what has changed, again and again, or once.")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--every", default="15m", show_default=True, callback=_pause, metavar="TIME", help="Pause between passes.")
@click.option("--once", is_flag=True, help="Make one pass and end: for cron, a systemd timer, a CronJob.")
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1, 64), help="Builds at a time.")
@click.option("--retry-failed", is_flag=True, help="Try at once, in the first pass, what failed before and waits.")
@workspace_option
@json_option
def watch(
    recipes: tuple[Path, ...], every: float, once: bool, parallel: int, retry_failed: bool, workspace: str, as_json: bool
) -> None:
    """Ask what the sources of RECIPES have now, and build what has changed: files, or folders, which are searched with all
    folders in them.

    Built is what `enginepress run` would have work for: other bytes at the source, another recipe, other packages, container or
    template. What is built goes to the channel `candidate` only. What fails is tried again later, after growing pauses, and
    disturbs no other.
    SIGTERM and Ctrl-C end what is being built; the next pass goes on there.

    Ends with 1 if `--once` found a recipe that failed. Each pass is kept in DIR/watch.
    """
    from enginepress.run.watch import watch as work

    stop = threading.Event()
    _stop_by_signal(stop)

    def on_pass(done: Pass) -> None:
        click.echo(json.dumps(done.to_json()) if as_json else done.summary())
        if not as_json:
            _tell_what_is_wrong(done)
        sys.stdout.flush()

    last = work(
        recipes,
        open_workspace(workspace),
        every=None if once else every,
        parallel=parallel,
        retry_failed=retry_failed,
        stop=stop,
        say=lambda text: click.echo(text, err=True),
        on_pass=on_pass,
    )
    if once and stop.is_set():
        sys.exit(128 + signal.SIGTERM)
    if once and not all(r.is_well for r in last.recipes):
        sys.exit(1)


def _tell_what_is_wrong(done: Pass) -> None:
    for watched in done.recipes:
        if watched.outcome in ("failed", "postponed"):
            error = watched.error or {}
            where = f"{error['where']}: " if error.get("where") and error["where"] != watched.path else ""
            again = f" (failed {watched.failures} times)" if watched.failures > 1 else ""
            click.echo(f"{watched.path}: {where}{error.get('message', '')}{again}", err=True)
            if error.get("fix"):
                click.echo(f"  next: {error['fix']}", err=True)
            if watched.again:
                click.echo(f"  tried again after {watched.again}, as soon as it changes, or with --retry-failed", err=True)
        elif watched.note:
            click.echo(f"{watched.path}: {watched.note}", err=True)


def _stop_by_signal(stop: threading.Event) -> None:
    """The first signal ends the work in order; the second one at once."""

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
