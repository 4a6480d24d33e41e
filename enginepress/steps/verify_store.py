"""Is a store what it should be? Every release against its manifest, records, channels, signatures, and what lies there besides.

Quick compares names and sizes and reads small files; deep reads and hashes every byte. Nothing is changed, and nothing raised
for what is wrong with a store: it is a finding, and the rest is looked at all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from enginepress.errors import EnginepressError, SignatureError, StoreError
from enginepress.signing import Trust
from enginepress.steps.readers_view import view_troubles
from enginepress.steps.signing import SignatureState, signature_state
from enginepress.stores.store import Progress, Store

Tell = Callable[[str], None]
"""Called with what is looked at next."""

RESTORE = "restore it from another store or a backup; if no channel needs the release, `enginepress prune` may remove it"


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        kind: `damaged` (bytes, sizes, names, manifests), `signature`, `record`, `channel`, `foreign`, `unreadable`.
        where: the model, the release or channel, or the path.
    """

    kind: Literal["damaged", "signature", "record", "channel", "foreign", "unreadable"]
    store: str
    where: str
    message: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Verdict:
    """What was found in one store."""

    store: str
    deep: bool
    models: int = 0
    releases: int = 0
    bytes: int = 0
    signatures: dict[str, dict[int, SignatureState]] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)

    def signed(self, *states: str) -> int:
        return sum(s.state in states for numbers in self.signatures.values() for s in numbers.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "deep": self.deep,
            "models": self.models,
            "releases": self.releases,
            "bytes": self.bytes,
            "signatures": {m: {str(n): s.to_json() for n, s in found.items()} for m, found in self.signatures.items()},
            "troubles": [asdict(trouble) for trouble in self.troubles],
        }


def store_bytes(store: Store, models: list[str] | None = None) -> int:
    """Bytes that a deep look reads, for a progress display. Releases that cannot be read count nothing."""
    total = 0
    for model in models or store.models():
        for number in store.numbers(model):
            try:
                total += store.manifest(model, number).size
            except StoreError:
                continue
    return total


def verify_store(
    store: Store,
    models: list[str] | None = None,
    *,
    deep: bool,
    trust: Callable[[str], Trust | None] = lambda _model: None,
    progress: Progress | None = None,
    tell: Tell = lambda _text: None,
) -> Verdict:
    """Looks at everything that a store holds of these models (None: of all).

    Args:
        deep: read and hash every byte. Otherwise names and sizes.
        trust: whose signature counts for a model.
        progress: told of bytes as they are hashed.
    """
    verdict = Verdict(store.url, deep)
    try:
        if models is None:
            verdict.troubles += [_foreign(store, "", stray) for stray in store.strays()]
        chosen = store.models() if models is None else models
    except EnginepressError as error:
        verdict.troubles.append(_unreadable(store, "the store", "MODEL", error))
        return verdict
    for model in chosen:
        verdict.models += 1
        try:
            _verify_model(store, model, verdict, trust(model), progress, tell)
        except EnginepressError as error:
            verdict.troubles.append(_unreadable(store, model, model, error))
    return verdict


def _verify_model(store: Store, model: str, verdict: Verdict, trust: Trust | None, progress: Progress | None, tell: Tell) -> None:
    numbers = store.numbers(model)
    whole: set[int] = set()
    signatures = verdict.signatures.setdefault(model, {})
    for number in numbers:
        verdict.releases += 1
        tell(f"{model} release {number}")
        where = f"{model} release {number}"
        try:
            manifest = store.manifest(model, number)
            different = store.verify(model, number, contents=verdict.deep, progress=progress)
        except EnginepressError as error:
            verdict.troubles.append(Trouble("damaged", store.url, where, str(error), _fix(error, f"{store.url}/{model}")))
            continue
        verdict.bytes += manifest.size
        verdict.troubles += [Trouble("damaged", store.url, where, str(d), RESTORE) for d in different]
        if not different:
            whole.add(number)
        verdict.troubles += _records(store, model, number, where)
        signatures[number] = _signature(store, model, number, trust, where, verdict)
    verdict.troubles += [_foreign(store, model, stray) for stray in store.strays(model)]
    for channel in store.channel_names(model):
        tell(f"{model} channel {channel}")
        verdict.troubles += _channel(store, model, channel, numbers, whole)


def _signature(store: Store, model: str, number: int, trust: Trust | None, where: str, verdict: Verdict) -> SignatureState:
    try:
        state = signature_state(store, model, number, trust)
    except SignatureError as error:
        state = SignatureState("bad", error.message)
    except StoreError as error:  # a record that is no JSON
        return SignatureState("bad", str(error))
    if state.state == "bad":
        again = f"`enginepress sign {store.url} {model} {number} --key FILE --again`"
        fix = f"sign it again with {again}, if you have checked what it is, or restore the record"
        verdict.troubles.append(Trouble("signature", store.url, where, state.detail, fix))
    elif state.state == "unsigned" and trust is not None and trust.required:
        fix = f"`enginepress sign {store.url} {model} {number} --key FILE`, if you have checked what it is"
        verdict.troubles.append(Trouble("signature", store.url, where, "is not signed, and a signature is required", fix))
    return state


def _records(store: Store, model: str, number: int, where: str) -> Iterator[Trouble]:
    for name in store.record_names(model, number):
        try:
            store.read_record(model, number, name)
        except EnginepressError as error:
            yield Trouble("record", store.url, f"{where} record {name}", str(error), error.fix)


# Channels -------------------------------------------------------------------------------------------------------------


def _channel(store: Store, model: str, channel: str, numbers: list[int], whole: set[int]) -> Iterator[Trouble]:
    where, target = f"{model} channel {channel}", f"{store.url}/{model}"
    try:
        number = store.channel(model, channel)
    except EnginepressError as error:
        yield Trouble("channel", store.url, where, str(error), _fix(error, target))
        return
    if number is None:
        return  # it has gone meanwhile
    if number not in numbers:
        fix = f"point it to a release that is there: `enginepress promote {target} N --channel {channel}`"
        yield Trouble("channel", store.url, where, f"is on release {number}, which is not in the store", fix)
    try:
        store.history(model, channel)
    except EnginepressError as error:
        yield Trouble("channel", store.url, f"{where}, its history", str(error), _fix(error, target))
    if number in whole:
        fix = f"make it anew: `enginepress promote {target} {number} --channel {channel}`"
        for problem in view_troubles(store, model, channel, number):
            yield Trouble("channel", store.url, where, problem, fix)


# Findings -------------------------------------------------------------------------------------------------------------


def _foreign(store: Store, model: str, stray: str) -> Trouble:
    fix = "look at it, and move it away; nothing that enginepress keeps lies there"
    return Trouble("foreign", store.url, model or "the store", f"{stray} does not belong there", fix)


def _unreadable(store: Store, where: str, model: str, error: EnginepressError) -> Trouble:
    return Trouble("unreadable", store.url, where, str(error), _fix(error, f"{store.url}/{model}"))


def _fix(error: EnginepressError, target: str) -> str | None:
    """What helps, with the model that it is about in place of TARGET."""
    return error.fix.replace("TARGET", target) if error.fix else None
