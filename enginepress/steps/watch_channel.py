"""Follows a channel: pulls each release that it names into a reader's folder and, if wanted, moves the server beside it.

Two small files in the folder say how it goes: `status.json` for people and monitoring, and `ready`, which is there while the
folder holds a whole release (and, with a server, that release answers): what a readiness probe looks at.
A store or a server that cannot be reached is an outage, not an end: what is there goes on being served, and is tried again.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enginepress.errors import EnginepressError
from enginepress.files import write_unsynced
from enginepress.manifest import Manifest, utc_now
from enginepress.serving import rollout as live
from enginepress.signing import Trust
from enginepress.steps.meter import Meter
from enginepress.steps.pull import pull_release, wanted_release
from enginepress.steps.rollout import check_changeable, rollout_mode, target_of
from enginepress.stores.pulled import Pulled, PulledFolder
from enginepress.stores.store import Store

Told = Callable[[str], None]
WRITE_EVERY_S = 5.0


class StoppedError(EnginepressError):
    """Raised inside a fetch that is to end now; the next one goes on where it was."""


@dataclass(frozen=True)
class Watch:
    """What is followed, and how.

    Attributes:
        every_s: seconds between two looks; each is longer or shorter by up to the share `jitter`, so that many readers do not
            come at once.
        server: address of the Triton that serves this folder, to be moved as well; None leaves it alone.
        trust: whose signature releases must carry; None: what the store's own recipe demands.
    """

    model: str
    channel: str
    every_s: float = 30.0
    jitter: float = 0.2
    server: str | None = None
    trust: Trust | None = None
    patience: live.Patience = live.PATIENCE

    def pause(self) -> float:
        return self.every_s * random.uniform(1 - self.jitter, 1 + self.jitter)


class Follower:
    """One reader that follows one channel. `run` ends when `stop` is set."""

    def __init__(self, store: Store, target: PulledFolder, watch: Watch, *, told: Told, stop: threading.Event) -> None:
        self._store = store
        self._target = target
        self._watch = watch
        self._told = told
        self._stop = stop
        self._state: dict[str, Any] = {}
        self._trouble = ""
        self._written = 0.0

    def run(self) -> None:
        """Looks, pulls, moves the server, and waits, again and again. Raises nothing that the next look could mend."""
        if self._watch.server is not None:
            self._ready(False)
        try:
            while not self._stop.is_set():
                self.look()
                self._stop.wait(self._watch.pause())
        finally:
            self._note(state="stopped")

    def look(self) -> bool:
        """One look. False if something was in the way, which is told and noted."""
        try:
            self._follow()
        except StoppedError:
            return False
        except EnginepressError as error:
            self._complain(error)
            return False
        if self._trouble:
            self._told("all is well again")
            self._trouble = ""
        return True

    def _follow(self) -> None:
        now = self._target.current()
        # Looked at first, so that an outage of the store leaves a reader ready that is.
        self._see_whether_ready(now)
        wanted = wanted_release(self._store, self._watch.model, self._watch.channel)
        self._note(state="following", wanted=wanted, release=now.release if now is not None else None)
        done = pull_release(
            self._store,
            self._watch.model,
            wanted,
            self._target,
            channel=self._watch.channel,
            trust=self._watch.trust,
            told=self._told,
            progress=self._fetching,
        )
        if done.changed:
            self._told(f"{done.folder} is on release {done.release}")
        self._note(state="following", release=done.release, since=utc_now() if done.changed else self._state.get("since"))
        if self._watch.server is None:
            self._ready(True)
        else:
            self._move_server(self._watch.server, done.manifest)

    def _move_server(self, server: str, manifest: Manifest) -> None:
        target = target_of(manifest, self._target.manifests())
        if live.serves(server, target):
            self._note(state="serving", serving=target.release)
            self._ready(True)
            # Nothing, unless the last look was interrupted, or gave up waiting for the old release's last requests.
            live.drop_old(server, target, patience=self._watch.patience, told=self._told)
            return
        check_changeable(manifest)
        mode, why = rollout_mode(manifest)
        if mode == "restart":
            # Servers that would all restart now know nothing of each other.
            self._note(state="waiting for `enginepress rollout`", serving=None)
            self._complain(f"release {target.release} lies ready; `enginepress rollout` moves servers one by one: {why}")
            return
        self._note(state="moving the server", serving=None)
        live.bring_up(server, target, patience=self._watch.patience, told=self._told)
        self._note(state="serving", serving=target.release)
        self._ready(True)
        live.drop_old(server, target, patience=self._watch.patience, told=self._told)

    def _see_whether_ready(self, now: Pulled | None) -> None:
        """As far as what lies here and the server tell. A server that is on another release, and answers, may be moving."""
        if now is None:
            self._ready(False)
        elif self._watch.server is None:
            self._ready(True)
        else:
            try:
                if live.serves(self._watch.server, target_of(self._target.manifest(now))):
                    self._ready(True)
            except EnginepressError:
                self._ready(False)  # what is wrong is told when the server is moved

    # What others see --------------------------------------------------------------------------------------------------

    def _fetching(self, meter: Meter) -> None:
        if self._stop.is_set():
            raise StoppedError("was told to stop; the next pull goes on where this one was")
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self._note(state=f"fetching: {meter}")

    def _complain(self, error: object) -> None:
        """The same trouble is told once, not at every look."""
        self._note(state="trouble", message=str(error))
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._told(f"will try again: {error}")

    def _note(self, **changes: Any) -> None:
        self._written = time.monotonic()
        if changes.get("state") != "trouble":
            self._state["message"] = ""
        self._state |= {"model": self._watch.model, "channel": self._watch.channel, "store": self._store.url}
        self._state |= {"looked": utc_now(), **changes}
        try:
            self._target.folder.mkdir(parents=True, exist_ok=True)
            write_unsynced(self._target.folder / "status.json", json.dumps(self._state, indent=1, sort_keys=True) + "\n")
        except OSError as error:
            self._told(f"status.json cannot be written: {error.strerror}")

    def _ready(self, ready: bool) -> None:
        path = self._target.folder / "ready"
        try:
            if ready and not path.exists():
                path.touch()
            elif not ready and os.path.lexists(path):
                path.unlink()
        except OSError as error:
            self._told(f"{path} cannot be changed: {error.strerror}")
