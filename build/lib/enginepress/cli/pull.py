"""`enginepress pull`: a release into a folder, once or following a channel. For init containers and sidecars."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import Duration, given_trust, json_option, trust_options

if TYPE_CHECKING:
    from enginepress.steps.meter import Meter


@click.command(short_help="Bring a release into a folder, and keep it on a channel.")
@click.argument("store")
@click.argument("model")
@click.option("--channel", "-c", help="Pull what this channel names.")
@click.option("--release", type=click.IntRange(min=1), help="Pull this release.")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="The reader's folder.")
@click.option("--root", help="The path at which the server sees that folder, if not the same.")
@click.option("--watch/--once", default=False, help="Go on following the channel, or end when the release is there (default).")
@click.option("--every", type=Duration(), default="30s", show_default=True, help="How often to look at the channel.")
@click.option(
    "--jitter", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Share by which each wait is longer or shorter."
)
@click.option("--triton", help="Move this server, which serves the folder, to each release as well: http://localhost:8000.")
@click.option("--grace", type=Duration(), default="10m", show_default=True, help="How long what is not current any more stays.")
@click.option("--keep", type=click.IntRange(min=0), default=1, show_default=True, help="Earlier releases kept for a way back.")
@trust_options
@json_option
def pull(
    store: str,
    model: str,
    channel: str | None,
    release: int | None,
    folder: Path,
    root: str | None,
    watch: bool,
    every: float,
    jitter: float,
    triton: str | None,
    grace: float,
    keep: int,
    public_key: Path | None,
    trusted_certificates: Path | None,
    as_json: bool,
) -> None:
    """Bring a release of MODEL from STORE (file:///srv/models, s3://bucket/prefix) into a folder of this machine.

    Every byte is checked against the release's manifest. FOLDER/current is what a server names as its model repository; it
    changes to another release in one rename. A pull that was killed goes on where it was.
    """
    from enginepress.errors import UsageError
    from enginepress.steps.pull import open_reader_store, pull_release, reader_folder, wanted_release

    if (channel is None) == (release is None):
        raise UsageError("name either a channel or a release", fix="--channel production, or --release 7")
    if watch and channel is None:
        raise UsageError("a release does not change, so there is nothing to watch", fix="--watch goes with --channel")
    if triton is not None and not watch:
        raise UsageError("--triton goes with --watch", fix="`enginepress rollout` moves servers without watching")
    if root is not None and not root.startswith("/"):
        raise UsageError("is not an absolute path", where="--root")
    opened = open_reader_store(store)
    trust = given_trust(public_key, trusted_certificates)
    target = reader_folder(folder, root=root, grace_s=grace, keep=keep)
    stop = threading.Event()
    if watch:
        from enginepress.steps.rollout import server_addresses
        from enginepress.steps.watch_channel import Follower, Watch

        server = server_addresses([triton])[0] if triton is not None else None
        followed = Watch(model, str(channel), every_s=max(0.05, every), jitter=jitter, server=server, trust=trust)
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, lambda *_: stop.set())
        _say(f"following channel {channel} of {model} in {opened.url}")
        Follower(opened, target, followed, told=_say, stop=stop).run()
        _say("stopped")
        return
    number = release or wanted_release(opened, model, str(channel))
    show = _Progress()
    done = pull_release(opened, model, number, target, channel=channel, trust=trust, told=_say, progress=show)
    show.end()
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        click.echo(f"{done.folder}: release {number} of {model}" + ("" if done.changed else ", as before"))


def _say(line: str) -> None:
    """A line of the log, with the time where no person is looking."""
    stamp = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime())
    click.echo(stamp + line, err=True)


class _Progress:
    """One line that is written over on a terminal; a line now and then in a log."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._live = sys.stderr.isatty()

    def __call__(self, meter: Meter) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._live else 15.0):
            return
        self._last = now
        if self._live:
            click.echo(f"\r\x1b[K{meter}", nl=False, err=True)
        else:
            _say(str(meter))

    def end(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
