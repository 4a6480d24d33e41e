"""serve: a real Triton on a channel, following it. For trying a release out; production servers mount the store, or pull."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from enginepress.errors import EnginepressError, StoreError
from enginepress.recipe import Recipe
from enginepress.serving.servable import check_servable_here
from enginepress.serving.tritonserver import Ports, TritonServer
from enginepress.stores.open import open_store
from enginepress.stores.store import Store

LOOK_EVERY_S = 1.0


def channel_server(recipe: Recipe, channel: str, *, log: Path, choose_ports: Callable[[], Ports]) -> TritonServer:
    """A server, not yet started, on what the channel points to now and will point to later.

    Raises:
        StoreError: if the channel points to nothing.
        GateError: if its engine was built for another machine.
    """
    store = open_store(recipe.stores[0])
    if store.channel(recipe.name, channel) is None:
        known = ", ".join(f"{c} (release {n})" for c, n in store.channels(recipe.name).items())
        raise StoreError(
            f"{recipe.name} has no channel '{channel}'",
            where=store.url,
            fix=f"channels are: {known}" if known else "`enginepress run RECIPE` makes the first release and moves its channels",
        )
    path = store.channel_path(recipe.name, channel)
    assert path is not None
    check_servable_here(path)
    return TritonServer(
        path,
        log=log,
        control_mode="explicit",
        ready_timeout_s=recipe.checks.ready_timeout_s,
        choose_ports=choose_ports,
    )


def follow_channel(
    server: TritonServer, recipe: Recipe, channel: str, *, stop: threading.Event, told: Callable[[str], None]
) -> None:
    """Makes a running server follow its channel until `stop` is set or the server dies.

    Raises:
        ServerError: if the server dies.
    """
    store = open_store(recipe.stores[0])
    served = store.channel(recipe.name, channel)
    while not stop.wait(LOOK_EVERY_S):
        server.check_running()
        wanted = _channel_or_none(store, recipe.name, channel, told)
        if wanted is None or wanted == served:
            continue
        try:
            for model in server.models:
                server.load(model, version=wanted)
        except EnginepressError as error:
            server.check_running()
            told(f"release {wanted} could not be loaded: {error}")
            continue
        served = wanted
        told(f"channel {channel} moved: release {wanted} is served")


def _channel_or_none(store: Store, model: str, channel: str, told: Callable[[str], None]) -> int | None:
    try:
        return store.channel(model, channel)
    except EnginepressError as error:
        told(str(error))
        return None
