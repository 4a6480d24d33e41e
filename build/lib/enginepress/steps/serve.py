"""serve: a real Triton on a channel, following it. For trying a release out; production servers mount the store, or pull."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from enginepress.errors import EnginepressError
from enginepress.recipe import Recipe
from enginepress.serving import rollout as live
from enginepress.serving.servable import check_servable_here
from enginepress.serving.tritonserver import Ports, TritonServer
from enginepress.signing import Trust
from enginepress.steps.pull import pull_release, reader_folder, release_manifest, wanted_release
from enginepress.steps.rollout import earlier_releases, target_of
from enginepress.steps.signing import trust_of
from enginepress.stores.open import open_store
from enginepress.stores.pulled import PulledFolder
from enginepress.stores.store import Store

LOOK_EVERY_S = 1.0
Told = Callable[[str], None]


class ServedChannel:
    """What a channel points to, as a folder that a server on this machine can read: the store's own, or a pulled copy.

    Args:
        copies: where releases of stores that are no folders are kept.

    Raises:
        StoreError: if the channel points to nothing.
    """

    def __init__(self, recipe: Recipe, channel: str, *, copies: Path, told: Told) -> None:
        self.recipe = recipe
        self.channel = channel
        self._store: Store = open_store(recipe.stores[0])
        self._trust: Trust | None = trust_of(recipe)
        self._told = told
        wanted_release(self._store, recipe.name, channel)
        path = self._store.channel_path(recipe.name, channel)
        self._pulled: PulledFolder | None = None
        if path is None:
            folder = copies / f"{recipe.name}-{channel}"
            self._pulled = reader_folder(folder, root=None, grace_s=60.0, keep=1)
            path = self._pulled.current_link
        self.path = path

    def look(self) -> live.Target:
        """What is to be served now; `path` leads to it.

        Raises:
            EnginepressError: if the store cannot be read, or the release must not be believed.
        """
        name = self.recipe.name
        number = wanted_release(self._store, name, self.channel)
        manifest = release_manifest(self._store, name, number, self._trust)
        if self._pulled is not None:
            pull_release(self._store, name, number, self._pulled, channel=self.channel, trust=self._trust, told=self._told)
        return target_of(manifest, earlier_releases(self._store, name, number))

    def number(self) -> int:
        """The release that the channel names; cheap."""
        return wanted_release(self._store, self.recipe.name, self.channel)


def channel_server(served: ServedChannel, *, log: Path, choose_ports: Callable[[], Ports]) -> TritonServer:
    """A server, not yet started, on what the channel points to now and will point to later.

    Raises:
        StoreError: if the release cannot be read.
        GateError: if its engine was built for another machine.
    """
    served.look()
    check_servable_here(served.path)
    return TritonServer(
        served.path,
        log=log,
        control_mode="explicit",
        ready_timeout_s=served.recipe.checks.ready_timeout_s,
        choose_ports=choose_ports,
    )


def follow_channel(server: TritonServer, served: ServedChannel, *, stop: threading.Event, told: Told) -> None:
    """Makes a running server follow its channel until `stop` is set or the server dies.

    Raises:
        ServerError: if the server dies.
    """
    there: int | None = None
    said = ""
    while not stop.wait(LOOK_EVERY_S):
        server.check_running()
        try:
            if served.number() == there:
                continue
            target = served.look()
            moved = not live.serves(server.http, target)
            if moved:
                live.bring_up(server.http, target)
            live.drop_old(server.http, target)
        except EnginepressError as error:
            server.check_running()
            if str(error) != said:
                told(f"will try again: {error}")
            said = str(error)
            continue
        said = ""
        there = target.release
        if moved:
            told(f"channel {served.channel} moved: release {there} is served")
