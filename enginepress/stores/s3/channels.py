"""Channels on S3: one small JSON object each, replaced by compare-and-set.

    channels/production.json
    {"format": 1, "channel": "production", "release": 7, "archived": 500, "moves": [{"release": 6, …}, {"release": 7, …}]}

The release and the history are one object, so a move and its line in the history cannot come apart. Where the moves get
many, the older ones are first copied to `history/<channel>/<number of the first>.json`, and then left out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from types import EllipsisType
from typing import Any

from enginepress.errors import StoreError
from enginepress.json_text import json_value
from enginepress.manifest import utc_now
from enginepress.stores.history import Move, move_of
from enginepress.stores.s3.client import Missing, StoreClient, Unmet
from enginepress.stores.s3.layout import FORMAT, ModelKeys
from enginepress.stores.s3.probe import Guarantees

KEPT = 200
"""Moves that stay in the channel's own object when older ones are put apart."""

MOST = 500


@dataclass(frozen=True)
class Channel:
    """One channel as it stands.

    Attributes:
        archived: how many older moves lie in objects of their own.
        etag: of the object; None if there is none yet.
    """

    release: int | None = None
    moves: tuple[Move, ...] = ()
    archived: int = 0
    etag: str | None = field(default=None, compare=False)

    def to_text(self, name: str) -> bytes:
        data = {
            "format": FORMAT,
            "channel": name,
            "release": self.release,
            "archived": self.archived,
            "moves": [asdict(move) for move in self.moves],
        }
        return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read(client: StoreClient, keys: ModelKeys, name: str) -> Channel:
    """The channel, without a release if there is none of that name.

    Raises:
        StoreError: if its object is damaged.
    """
    key = keys.channel(name)
    try:
        text, stored = client.get(key)
    except Missing:
        return Channel()
    try:
        data = json_value(text)
        moves = _moves(data["moves"])
        if data["format"] != FORMAT or data["channel"] != name or not moves or data["release"] != moves[-1].release:
            raise ValueError(f"it does not describe channel {name}")
        return Channel(int(data["release"]), moves, int(data["archived"]), stored.etag)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"is damaged: {error}",
            where=client.where(key),
            fix=f"remove this object and point the channel anew: `enginepress promote TARGET N --channel {name}`",
        ) from None


def history(client: StoreClient, keys: ModelKeys, name: str) -> list[Move]:
    """Every move, oldest first."""
    channel = read(client, keys, name)
    if not channel.archived:
        return list(channel.moves)
    older: list[Move] = []
    for stored in client.listing(keys.history(name, 0).rpartition("/")[0] + "/"):
        first = int(stored.key.rpartition("/")[2].removesuffix(".json"))
        if first == len(older) and first < channel.archived:
            try:
                older += _moves(json_value(client.get(stored.key)[0]))
            except (Missing, ValueError, TypeError, KeyError) as error:
                fix = "restore it from a backup; the channel itself is not affected"
                raise StoreError(f"is damaged: {error}", where=client.where(stored.key), fix=fix) from None
    return [*older[: channel.archived], *channel.moves]


def move(
    client: StoreClient,
    keys: ModelKeys,
    guarantees: Guarantees,
    name: str,
    number: int,
    *,
    url: str,
    single_writer: bool,
    expect: int | EllipsisType | None,
    who: str,
    why: str,
    back: bool,
    check: Callable[[], None],
) -> None:
    """Points the channel to a release. Movers at the same time come one after the other; none is lost.

    Args:
        check: raises if the release may not be pointed to; called before each attempt, and after the move: should the
            release have been removed at the same moment, the move is undone.

    Raises:
        StoreError: not where it was expected, or the server compares nothing and others may write.
    """
    if guarantees.match == "none" and not single_writer:
        raise StoreError(
            "this server does not compare an object with what a writer expects (If-Match), so two operators who move a channel "
            "at the same time could overwrite each other unseen",
            where=url,
            fix="if nobody else writes to this store at the same time, say `single_writer: true` beside its url in the recipe"
            " (`enginepress backup`, `restore` and `prune`: --single-writer)",
        )
    ours, before = f"{name}-{number}-{uuid.uuid4().hex[:8]}", Channel()
    while True:
        now = read(client, keys, name)
        if any(m.activation == ours for m in now.moves):  # the answer to the attempt that did it was lost
            if now.moves[-1].activation != ours:
                return  # and somebody has moved it since
            etag = now.etag or ""
            break
        if not isinstance(expect, EllipsisType) and now.release != expect:
            raise _unexpected(client.where(keys.channel(name)), keys.model, name, now.release, expect)
        check()
        made = Move(number, now.release, ours, utc_now(), who, why, back)
        after = _archived(client, keys, name, Channel(number, (*now.moves, made), now.archived))
        condition: dict[str, Any] = {}
        if guarantees.match != "none":
            condition = {"if_match": guarantees.written(now.etag)} if now.etag is not None else {"if_none_match": True}
        before = now
        try:
            etag = client.put(keys.channel(name), after.to_text(name), **condition)
        except (Unmet, Missing):
            continue
        break
    try:
        check()
    except StoreError:
        _undo(client, keys, guarantees, name, before, etag)
        raise


def _undo(client: StoreClient, keys: ModelKeys, guarantees: Guarantees, name: str, before: Channel, etag: str) -> None:
    """Puts the channel back to where it was, unless somebody has moved it since."""
    condition = guarantees.written(etag) if guarantees.match != "none" else None
    try:
        if before.release is not None:
            client.put(keys.channel(name), before.to_text(name), if_match=condition)
        elif client.head(keys.channel(name)).etag == etag:
            client.delete(keys.channel(name))
    except (Unmet, Missing):
        pass


def restore(client: StoreClient, keys: ModelKeys, guarantees: Guarantees, name: str, moves: Sequence[Move]) -> None:
    """Makes a channel with the history that it had elsewhere; see `Store.restore_channel`."""
    now = read(client, keys, name)
    if now.release is None:
        whole = Channel()
        for start in range(0, len(moves), KEPT):
            part = tuple(moves[start : start + KEPT])
            whole = _archived(client, keys, name, Channel(part[-1].release, (*whole.moves, *part), whole.archived))
        try:
            client.put(keys.channel(name), whole.to_text(name), if_none_match=guarantees.create != "ignored")
            return
        except Unmet:  # perhaps ourselves, and the answer was lost
            now = read(client, keys, name)
    if not now.moves or now.moves[-1] != moves[-1]:
        raise StoreError(
            f"channel {name} of {keys.model} is there, on release {now.release}",
            where=client.where(keys.channel(name)),
            fix="restore into an empty store",
        )


def _unexpected(where: str, model: str, channel: str, found: int | None, expected: int | None) -> StoreError:
    words = {n: f"release {n}" if n is not None else "no release" for n in (found, expected)}
    return StoreError(
        f"channel {channel} of {model} is on {words[found]}, not on {words[expected]}: somebody moved it meanwhile",
        where=where,
        fix="look at `enginepress releases TARGET`, then decide again",
    )


def _archived(client: StoreClient, keys: ModelKeys, name: str, channel: Channel) -> Channel:
    """The channel with its older moves put apart, if there are many. Who does it at the same time writes the same."""
    if len(channel.moves) <= MOST:
        return channel
    older, kept = channel.moves[:-KEPT], channel.moves[-KEPT:]
    text = json.dumps([asdict(m) for m in older], indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    client.put(keys.history(name, channel.archived), text.encode())
    return Channel(channel.release, kept, channel.archived + len(older))


def _moves(lines: list[dict[str, Any]]) -> tuple[Move, ...]:
    return tuple(move_of(line) for line in lines)
