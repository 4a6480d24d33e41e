"""Moves one live Triton from one release of a model to another, through its model-control API.

`bring_up` and `drop_old` are two phases: the new release's models are loaded beside the old one's, what clients call moves to
them, its answer is looked at, and only then, when no request of the old one is under way any more, the old one is dropped.
Both are in memory for a while. `restart` is for where that does not fit: the server is drained, drops the old release, loads
the new one, and is put back.

What makes the first phase possible are names: models that only other models call carry the release's number
(`enginepress.repository.side_by_side`), so loading the new ones disturbs nobody. Triton itself keeps a model's old version
answering until the new one is ready, and for requests that are under way. Its "200" to a load proves nothing: what is
believed is `model_version` of an answer, which is the release's number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from enginepress.errors import ServerError
from enginepress.repository.side_by_side import marked_release
from enginepress.serving.client import Question, ask_connection
from enginepress.serving.control import (
    ModelState,
    is_ready,
    load_as_it_lies,
    model_states,
    served_versions,
    unload_model,
)
from enginepress.serving.drain import drain, is_drained, server_is_ready, undrain
from enginepress.serving.http_connection import HttpConnection

LOOK_S = 0.1
Told = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """What a server shall serve.

    Attributes:
        model: what clients call: the recipe's name.
        release: its number.
        models: names of the release's Triton models, as they are in the release.
        question: asked to see who answers.
        earlier: names of models that releases before it had, and that are dropped with them.
    """

    model: str
    release: int
    models: frozenset[str]
    question: Question
    earlier: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds.

    Attributes:
        load: one model's loading.
        answer: one answer, and so also what is under way when a release is dropped.
        drain: from "not ready" to the last request that a load balancer sends.
    """

    load: float = 600.0
    answer: float = 600.0
    drain: float = 30.0


PATIENCE = Patience()


class NotThereError(ServerError):
    """Raised when the server's own repository does not hold the wanted release yet."""


def serves(address: str, target: Target, *, timeout_s: float = 10.0) -> bool:
    """Whether what clients call is on this release, and on it alone. Asks nothing that takes the model's time.

    Raises:
        ServerError: if the server cannot be reached.
    """
    with HttpConnection(address, timeout_s=timeout_s) as connection:
        states = model_states(connection)
        public = _public(states, target)
        return target.model in public and all(_on(states, name, target.release) for name in public)


def bring_up(address: str, target: Target, *, patience: Patience = PATIENCE, told: Told = lambda _line: None) -> None:
    """The first phase: the new release's models are loaded, what clients call moves to them, and its answer is looked at.

    Raises:
        NotThereError: the server's repository is not on this release; nothing was changed.
        ServerError: the release does not load, or another one answers. The old one then goes on answering.
    """
    with HttpConnection(address, timeout_s=patience.load) as connection:
        states = model_states(connection)
        behind = _behind(states, target)
        _check_there(connection, states, target, behind)
        _drop_unused(connection, states, target, patience.answer, told)
        try:
            for name in (*behind, *_public(states, target)):
                load_as_it_lies(connection, name)
                _check_version(connection, name, target)
            check_answer(connection, target, timeout_s=patience.answer)
        except ServerError:
            _forget(connection, target)
            raise
        told(f"{address}: release {target.release} answers")


def drop_old(address: str, target: Target, *, patience: Patience = PATIENCE, told: Told = lambda _line: None) -> None:
    """The second phase: unloads what belongs to other releases, when no request of theirs is under way.

    Raises:
        ServerError: if requests of the old release are still under way after `patience.answer`; nothing is dropped then.
    """
    with HttpConnection(address, timeout_s=patience.load) as connection:
        states = model_states(connection)
        public = set(_public(states, target))
        wanted = public | set(_behind(states, target))
        loaded = {s.name for s in states if s.state == "READY" and _base(s.name) in target.models | target.earlier}
        gone = sorted(loaded - wanted)
        # What the new release has no more: clients called it, and nobody behind it may go before it.
        callers = {name for name in gone if name not in _marked_bases(states) and marked_release(name) is None}
        for name in sorted(callers):
            unload_model(connection, name)
        _wait_until_idle(connection, public, keep={str(target.release)}, timeout_s=patience.answer)
        _wait_until_idle(connection, callers, keep=set(), timeout_s=patience.answer)
        for name in gone:
            if name not in callers:
                unload_model(connection, name)
        if gone:
            told(f"{address}: dropped {', '.join(gone)}")


def _drop_unused(
    connection: HttpConnection, states: Collection[ModelState], target: Target, timeout_s: float, told: Told
) -> None:
    """What an interrupted rollout left loaded though no public model is on its release: two engines fit, and not three."""
    family = [s for s in states if s.state == "READY" and _base(s.name) in target.models | target.earlier]
    public = {s.name for s in family if marked_release(s.name) is None}
    used = {s.version for s in family if s.name in public}
    unused = sorted(s.name for s in family if s.name not in public and s.version not in used)
    if not unused:
        return
    _wait_until_idle(connection, public, keep=used, timeout_s=timeout_s)
    for name in unused:
        unload_model(connection, name)
    _wait_until_idle(connection, unused, keep=set(), timeout_s=timeout_s)
    told(f"{connection.address}: dropped {', '.join(unused)}, which an interrupted rollout had left")


def restart(address: str, target: Target, *, patience: Patience = PATIENCE, told: Told = lambda _line: None) -> None:
    """Drain, drop the old release, load the new one, undrain. Nobody is answered by this server in between.

    Raises:
        NotThereError: the server's repository is not on this release; the old one answers again, and the server is undrained.
        ServerError: the release does not load. The server then stays drained, so that no load balancer sends requests to it.
    """
    with HttpConnection(address, timeout_s=patience.load) as connection:
        states = model_states(connection)
        _check_there(connection, states, target, _behind(states, target))
        drain(connection)
        told(f"{address}: drained, waiting {patience.drain:g} s for load balancers to notice")
        time.sleep(patience.drain)
        loaded = {s.name for s in states if s.state == "READY" and _base(s.name) in target.models | target.earlier}
        for name in sorted(loaded, key=lambda n: marked_release(n) is not None):
            unload_model(connection, name)
            _wait_until_idle(connection, {name}, keep=set(), timeout_s=patience.answer)
        try:
            for name in (*_behind(states, target), *_public(states, target)):
                load_as_it_lies(connection, name)
                _check_version(connection, name, target)
        except NotThereError:
            # Where no model behind carries the release's number, only loading tells. Meanwhile it takes requests as before.
            for name in sorted(loaded, key=lambda n: marked_release(n) is None):
                load_as_it_lies(connection, name)
            undrain(connection)
            raise
        check_answer(connection, target, timeout_s=patience.answer)
        undrain(connection)
        told(f"{address}: release {target.release} answers, undrained")


def put_back(address: str, *, only_drained: bool = False) -> bool:
    """Undrains a server that says that it is not ready, as an interrupted rollout leaves one. Whether it had to be.

    Args:
        only_drained: leave a server alone that was never drained, and is not ready for a reason of its own.

    Raises:
        ServerError: if it does not get ready.
    """
    with HttpConnection(address, timeout_s=60.0) as connection:
        wanted = is_drained(connection) if only_drained else not server_is_ready(connection)
        if wanted:
            undrain(connection)
        return wanted


def check_answer(connection: HttpConnection, target: Target, *, timeout_s: float) -> None:
    """Asks the model and looks who answers.

    Raises:
        ServerError: an error for an answer, or another release's.
    """
    answer = ask_connection(connection, target.model, target.question, stream=False, timeout_s=timeout_s)
    if answer.model_version != str(target.release):
        raise ServerError(
            f"release {answer.model_version} of {target.model} answers, not release {target.release}",
            where=connection.url(f"/v2/models/{target.model}"),
            fix="look at the server's log; `enginepress rollout` tries again",
        )


# Which models ---------------------------------------------------------------------------------------------------------


def _base(name: str) -> str:
    marked = marked_release(name)
    return marked[0] if marked is not None else name


def _marked_bases(states: Collection[ModelState]) -> set[str]:
    """Models that stand behind others here: there is one with a release's mark."""
    return {marked[0] for s in states if (marked := marked_release(s.name)) is not None}


def _behind(states: Collection[ModelState], target: Target) -> list[str]:
    """Models of the wanted release that only others call."""
    return sorted({s.name for s in states if (m := marked_release(s.name)) and m[0] in target.models and m[1] == target.release})


def _public(states: Collection[ModelState], target: Target) -> list[str]:
    """Models that clients call, the one that has the recipe's name first."""
    names = {s.name for s in states if s.name in target.models} - _marked_bases(states)
    return sorted(names, key=lambda name: (name != target.model, name))


def _on(states: Collection[ModelState], name: str, release: int) -> bool:
    return {s.version for s in states if s.name == name and s.state == "READY"} == {str(release)}


def _check_there(connection: HttpConnection, states: Collection[ModelState], target: Target, behind: Collection[str]) -> None:
    """Whether the server's repository is on the wanted release, as far as its index tells."""
    names = {s.name for s in states}
    marked = {base for base in _marked_bases(states) if base in target.models}
    missing = target.models - names - {_base(name) for name in behind}
    stale = marked - {_base(name) for name in behind}
    if missing or stale:
        raise NotThereError(
            f"its model repository is not on release {target.release} of {target.model} yet: there is no "
            + ", ".join(sorted([*missing, *(f"{name}.r{target.release}" for name in stale)])),
            where=connection.url("/v2/repository/index"),
            fix="wait until the channel's folder, or the puller beside the server, has moved",
        )


def _check_version(connection: HttpConnection, name: str, target: Target) -> None:
    """After a load that was answered with 200. The old version is on its way out then, and no longer listed."""
    versions = served_versions(connection, name)
    if versions != (str(target.release),):
        raise NotThereError(
            f"model '{name}' serves version {', '.join(versions) or 'none'} after it was told to load release {target.release}",
            where=connection.url(f"/v2/models/{name}"),
            fix="wait until the channel's folder, or the puller beside the server, has moved",
        )


def _forget(connection: HttpConnection, target: Target) -> None:
    """After a failed first phase: what was loaded for nothing is dropped, unless somebody calls it already."""
    try:
        states = model_states(connection)
        if any(s.version == str(target.release) and s.state == "READY" for s in states if s.name in _public(states, target)):
            return
        for name in _behind(states, target):
            if is_ready(connection, name):
                unload_model(connection, name)
    except ServerError:
        pass  # the error that led here says more


# Waiting --------------------------------------------------------------------------------------------------------------


def _wait_until_idle(connection: HttpConnection, names: Collection[str], *, keep: Collection[str], timeout_s: float) -> None:
    """Until Triton has let go of every version of these models but those: it waits for requests that are under way."""
    deadline = time.monotonic() + timeout_s
    while True:
        busy = sorted(
            f"{s.name} version {s.version}"
            for s in model_states(connection)
            if s.name in names and s.state in ("READY", "UNLOADING", "LOADING") and s.version not in keep
        )
        if not busy:
            return
        if time.monotonic() > deadline:
            raise ServerError(
                f"requests of {', '.join(busy)} are still under way after {timeout_s:g} s, so it is not dropped",
                where=connection.address,
                fix="run the rollout again later: the new release answers already",
            )
        time.sleep(LOOK_S)
