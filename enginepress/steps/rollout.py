"""rollout: every live server named is moved to a release, without a failed request.

`reload`: on each server the new release is loaded beside the old one, takes over and is asked; when it answers everywhere, the
old one is dropped everywhere. `restart`, where memory does not hold both: one server after the other is drained, changes, and
is put back. The servers' own folders change first: by the channel (a mounted store) or by a puller beside each.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from enginepress.engines import gpus
from enginepress.engines.fit.two_releases import holds_two
from enginepress.errors import EnginepressError, ServerError, UsageError
from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.serving import rollout as live
from enginepress.serving.client import Question
from enginepress.serving.dialect import dialect_of
from enginepress.signing import Trust
from enginepress.steps.pull import release_manifest
from enginepress.stores.store import Store

Mode = Literal["reload", "restart"]
Told = Callable[[str], None]

TRY_AGAIN_S = 2.0
EARLIER = 10
"""So many releases are looked at for names of models that the new one has no more."""


@dataclass(frozen=True)
class Moved:
    """What became of one server."""

    server: str
    done: Literal["moved", "was there already"]
    seconds: float


@dataclass(frozen=True)
class RolloutResult:
    """A finished rollout."""

    model: str
    release: int
    mode: Mode
    servers: tuple[Moved, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def server_addresses(urls: Sequence[str]) -> list[str]:
    """Addresses ("host:port") of every server that the URLs name; a name that resolves to several stands for all of them.

    Raises:
        UsageError: for what is no http:// URL.
        ServerError: for a name that does not resolve.
    """
    found: list[str] = []
    for url in urls:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port or 8000
        except ValueError:
            host, port = None, 0
        if parts.scheme != "http" or not host or parts.path not in ("", "/"):
            raise UsageError(f"'{url}' is no server", fix="name Triton's HTTP port, as http://triton-headless:8000")
        try:
            resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ServerError(f"the name {host} cannot be resolved: {error}", where=url, fix="name another host") from None
        hosts = sorted({str(entry[4][0]) for entry in resolved})
        if host == "localhost":
            hosts = hosts[:1]  # one server, under two kinds of address
        found += [f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h in hosts]
    return list(dict.fromkeys(found))


def target_of(manifest: Manifest, earlier: Sequence[Manifest] = ()) -> live.Target:
    """What a server shall serve, by the release's manifest."""
    builder = manifest.recipe.get("engine", {}).get("builder", "onnxruntime")
    return live.Target(
        model=manifest.model,
        release=manifest.release,
        models=_models(manifest),
        question=Question(text="Hello", max_tokens=1, dialect=dialect_of(builder)),
        earlier=frozenset().union(*(_models(m) for m in earlier)),
    )


def _models(manifest: Manifest) -> frozenset[str]:
    parts = (entry.path.split("/") for entry in manifest.files)
    return frozenset(p[0] for p in parts if len(p) == 2 and p[1] == "config.pbtxt")


def rollout_mode(manifest: Manifest, before: Manifest | None = None) -> tuple[Mode, str]:
    """How live servers change to this release, and why: what its recipe says, or else whether memory holds both.

    Args:
        before: the release that is served now; taken to be as large as the new one if nobody knows.
    """
    try:
        recipe = Recipe.model_validate(manifest.recipe)
    except ValueError:
        return "restart", "its recipe is of another version of enginepress"
    if recipe.serving.rollout is not None:
        return recipe.serving.rollout, "the recipe says so"
    if recipe.engine.gpu is None:
        return "reload", "it runs on a CPU"
    ranks = recipe.engine.parallelism.world_size
    after, now = manifest.size // ranks, (before or manifest).size // ranks
    try:
        memory = gpus.find(recipe.engine.gpu.name).memory_bytes
    except EnginepressError:
        return "restart", f"nobody knows how much memory a {recipe.engine.gpu.name} has"
    if holds_two(recipe, memory, now, after):
        return "reload", f"{recipe.engine.gpu.name} holds both"
    return "restart", f"{recipe.engine.gpu.name} does not hold both: the KV cache of the one leaves no room for the other"


def check_changeable(manifest: Manifest) -> None:
    """Refuses what no running server can change to: of several ranks under one mpirun only the first takes commands.

    Raises:
        ServerError: says to start the servers anew.
    """
    try:
        recipe = Recipe.model_validate(manifest.recipe)
    except ValueError:
        return
    ranks = recipe.engine.parallelism.world_size
    if recipe.engine.builder == "tensorrt_llm" and ranks > 1 and recipe.serving.multi_gpu == "leader":
        raise ServerError(
            f"{manifest.model} is served by {ranks} processes, a tritonserver for each rank, and only the first takes commands",
            where="serving.multi_gpu: leader",
            fix="start the servers anew, one after the other: `kubectl rollout restart`; or build with multi_gpu: orchestrator",
        )


def roll_out(
    store: Store,
    model: str,
    number: int,
    servers: Sequence[str],
    *,
    mode: Mode | None = None,
    allow_downtime: bool = False,
    trust: Trust | None = None,
    patience: live.Patience = live.PATIENCE,
    wait_s: float = 600.0,
    told: Told = lambda _line: None,
) -> RolloutResult:
    """Moves every server to the release.

    Args:
        servers: addresses, as `server_addresses` gives them.
        mode: instead of what `rollout_mode` finds.
        allow_downtime: restart even if there is only one server.
        trust: whose signature the release must carry; None: what the store's own recipe demands.
        wait_s: how long a server's own folder may take to get there.

    Raises:
        UsageError: a restart of the only server, without `allow_downtime`.
        ServerError: a server that did not get there. Those before it are on the new release, those after it on the old one;
            run again to go on.
    """
    manifest = release_manifest(store, model, number, trust)
    check_changeable(manifest)
    target = target_of(manifest, earlier_releases(store, model, number))
    found, why = rollout_mode(manifest)
    chosen = mode or found
    told(f"{model} release {number} on {len(servers)} server(s), by {chosen}: {'as asked' if mode else why}")
    if chosen == "restart" and len(servers) < 2 and not allow_downtime:
        raise UsageError(
            f"a restart of the only server leaves {model} unanswered for as long as loading takes",
            fix="name more servers, or say --allow-downtime",
        )
    moved = (_reload if chosen == "reload" else _restart)(servers, target, patience, wait_s, told)
    return RolloutResult(model, number, chosen, tuple(moved))


def _reload(servers: Sequence[str], target: live.Target, patience: live.Patience, wait_s: float, told: Told) -> list[Moved]:
    moved = []
    # All are asked first, so that one that cannot be reached is told before anything has changed.
    there = {server: live.serves(server, target) for server in servers}
    for server in servers:
        began = time.monotonic()
        if not there[server]:
            _when_there(partial(live.bring_up, server, target, patience=patience, told=told), wait_s, TRY_AGAIN_S, told)
        try:
            if live.put_back(server, only_drained=True):
                told(f"{server}: put back, for an interrupted rollout had left it drained")
        except ServerError as error:
            told(str(error))  # the release answers; what else is wrong with the server is not the rollout's
        moved.append(_moved(server, there[server], began))
    for server in servers:
        live.drop_old(server, target, patience=patience, told=told)
    return moved


def _restart(servers: Sequence[str], target: live.Target, patience: live.Patience, wait_s: float, told: Told) -> list[Moved]:
    moved: list[Moved] = []
    there = {server: live.serves(server, target) for server in servers}
    is_back = False
    for server in servers:
        began = time.monotonic()
        if there[server]:
            # One that an interrupted rollout left drained answers already and only has to be put back.
            is_back |= live.put_back(server)
        else:
            if is_back:
                told(f"waiting {patience.drain:g} s for load balancers to notice that the one before is back")
                time.sleep(patience.drain)
            # Each try takes the server out for a while: load balancers are to notice that it was back in between.
            pause = max(TRY_AGAIN_S, patience.drain)
            _when_there(partial(live.restart, server, target, patience=patience, told=told), wait_s, pause, told)
            is_back = True
        moved.append(_moved(server, there[server], began))
    return moved


def _moved(server: str, was_there: bool, began: float) -> Moved:
    return Moved(server, "was there already" if was_there else "moved", round(time.monotonic() - began, 3))


def _when_there(act: Callable[[], None], wait_s: float, pause_s: float, told: Told) -> None:
    """Tries again while the server's own folder has not changed yet."""
    deadline, said = time.monotonic() + wait_s, False
    while True:
        try:
            return act()
        except live.NotThereError as error:
            if time.monotonic() > deadline:
                raise
            if not said:
                told(f"waiting: {error}")
                said = True
            time.sleep(pause_s)


def earlier_releases(store: Store, model: str, number: int) -> list[Manifest]:
    """The newest others, as far as they can be read: a server may have models of theirs loaded."""
    found = []
    for other in reversed([n for n in store.numbers(model) if n != number][-EARLIER:]):
        with contextlib.suppress(EnginepressError):
            found.append(store.manifest(model, other))
    return found
