"""Channels: movable names for releases.

    channels/production -> ../activations/production-7-1c9f03ab

A channel is a symbolic link, swapped by one rename to a freshly made activation: its configs are new files, newer than
every file of the activation before, because Triton reloads only what is newer than it remembers, and would go on serving
the old release after a rollback (docs/stores.md). Heavy files are hard links to the release's; where the file system cannot
do that they are relative symbolic links, and otherwise copies.

Movers take turns by a lock. The activation that a channel pointed to before is kept, since a server may still be reading it;
older ones are removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType

from enginepress.errors import StoreError
from enginepress.files import check_relative, make_folders, newest_ns, remove_tree, sync_folder, sync_tree
from enginepress.manifest import utc_now
from enginepress.names import CHANNEL_NAME, name_trouble
from enginepress.repository import Placement
from enginepress.stores.copying import Copy, copy_all
from enginepress.stores.history import Move, append_move, read_moves, write_moves
from enginepress.stores.layout import ModelFolder, check_channel, store_errors
from enginepress.stores.store import PlaceAt

_ACTIVATION = re.compile(r"([a-z][a-z0-9-]*)-([1-9][0-9]{0,8})-([0-9a-f]{8})")
_STEP_NS = 1_000_000_000


@dataclass(frozen=True)
class Activation:
    """A folder that a channel points, or pointed, to."""

    name: str
    channel: str
    release: int


def current(folder: ModelFolder, channel: str) -> Activation | None:
    """What the channel's link says, whether or not the activation is there.

    Raises:
        StoreError: if something else than a channel's link stands in its place.
    """
    link = folder.channels / check_channel(channel)
    folder.check_real(folder.channels)
    with store_errors("reading a channel", where=link):
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            return None
        except OSError:
            if not os.path.lexists(link) or os.path.islink(link):
                raise
            raise StoreError(
                "is not a channel: a symbolic link belongs there",
                where=str(link),
                fix=f"move it away and point the channel anew: `enginepress promote TARGET N --channel {channel}`",
            ) from None
    found = _parse(os.path.basename(target))
    if found is None or found.channel != channel or target != f"../activations/{found.name}":
        raise StoreError(
            f"points to {target}, which is no activation of this channel",
            where=str(link),
            fix=f"remove the link and point the channel anew: `enginepress promote TARGET N --channel {channel}`",
        )
    return found


def resolved(folder: ModelFolder, channel: str) -> tuple[int, Path] | None:
    """The release that the channel points to and the folder that its readers see, or None if there is no such channel.

    Raises:
        StoreError: if the link dangles.
    """
    found = current(folder, channel)
    if found is None:
        return None
    target = folder.activations / found.name
    folder.check_real(target)
    if not target.is_dir():
        raise StoreError(
            f"points to the activation {found.name}, which is gone, so nobody can read release {found.release} there",
            where=str(folder.channels / channel),
            fix=f"point the channel anew: `enginepress promote TARGET {found.release} --channel {channel}`",
        )
    return found.release, target


def names(folder: ModelFolder) -> list[str]:
    """The channels that there are, sorted. What no channel may be called is a stray (`enginepress.stores.strays`)."""
    with store_errors("reading the store", where=folder.channels):
        try:
            return sorted(n for n in os.listdir(folder.channels) if not name_trouble(n, CHANNEL_NAME))
        except FileNotFoundError:
            return []


def activate(
    folder: ModelFolder,
    channel: str,
    number: int,
    place: PlaceAt,
    *,
    reader_root: str,
    expect: int | EllipsisType | None,
    who: str,
    why: str,
    back: bool = False,
) -> Path:
    """Points the channel to a release; see `FileStore.activate`."""
    activation = Activation(f"{check_channel(channel)}-{number}-{uuid.uuid4().hex[:8]}", channel, number)
    with (
        store_errors(f"moving channel {channel} of {folder.model}", where=folder.path),
        folder.lock(f"channel-{channel}", about=f"moving channel {channel} of {folder.model}"),
        # Who removes a release holds the same lock.
        folder.lock(f"release-{number}", about=f"moving channel {channel} of {folder.model} to release {number}"),
        _fresh_link(folder, activation) as link,
    ):
        before = current(folder, channel)
        if not isinstance(expect, EllipsisType):
            _check_expected(folder, channel, before, expect)
        target = folder.activations / activation.name
        folder.check_real(target)
        folder.check_real(folder.history(channel))
        placement = place(f"{reader_root}/{folder.model}/activations/{activation.name}")
        if placement.number != number:
            raise StoreError(f"was placed as {placement.number} and cannot be activated as release {number}", where=str(target))
        try:
            _write(target, placement, folder=folder, newer_than=before)
            previous = before.release if before is not None else None
            move = Move(number, previous, activation.name, utc_now(), who, why, back)
            append_move(folder.history(channel), move, current=before.name if before is not None else None)
            _point(folder, link, activation, before)
        except BaseException:
            # Only if the channel does not point there: an error may come after the rename.
            with contextlib.suppress(OSError, StoreError):
                if current(folder, channel) != activation:
                    shutil.rmtree(target, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):
            _remove_older(folder, channel, keep={activation.name, before.name if before is not None else ""})
        return target


def restore(folder: ModelFolder, channel: str, moves: Sequence[Move], place: PlaceAt, *, reader_root: str) -> None:
    """Makes a channel with the history that it had elsewhere; see `Store.restore_channel`.

    The activation is called as the last move says. The history is there before the channel: whoever is killed in between
    leaves none, and does all of it again.
    """
    check_channel(channel)
    last = moves[-1]
    activation = _parse(last.activation)
    if activation is None or (activation.channel, activation.release) != (channel, last.release):
        activation = Activation(f"{channel}-{last.release}-{uuid.uuid4().hex[:8]}", channel, last.release)
    with (
        store_errors(f"restoring channel {channel} of {folder.model}", where=folder.path),
        folder.lock(f"channel-{channel}", about=f"restoring channel {channel} of {folder.model}"),
        folder.lock(f"release-{last.release}", about=f"restoring channel {channel} of {folder.model}"),
        _fresh_link(folder, activation) as link,
    ):
        now = current(folder, channel)
        if now is not None and now.name == activation.name:
            return
        if now is not None:
            raise StoreError(
                f"channel {channel} of {folder.model} is there, on release {now.release}",
                where=str(folder.channels / channel),
                fix="restore into an empty store",
            )
        target = folder.activations / activation.name
        folder.check_real(target)
        folder.check_real(folder.history(channel))
        remove_tree(target)
        _write(target, place(f"{reader_root}/{folder.model}/activations/{activation.name}"), folder=folder, newer_than=None)
        write_moves(folder.history(channel), [*moves[:-1], replace(last, activation=activation.name)])
        _point(folder, link, activation, None)


def _check_expected(folder: ModelFolder, channel: str, before: Activation | None, expect: int | None) -> None:
    found = before.release if before is not None else None
    if found != expect:
        words = {n: f"release {n}" if n is not None else "no release" for n in (found, expect)}
        raise StoreError(
            f"channel {channel} of {folder.model} is on {words[found]}, not on {words[expect]}: somebody moved it meanwhile",
            where=str(folder.channels / channel),
            fix="look at `enginepress releases TARGET`, then decide again",
        )


# The activation -------------------------------------------------------------------------------------------------------


def _write(target: Path, placement: Placement, *, folder: ModelFolder, newer_than: Activation | None) -> None:
    """Writes and syncs the folder. Written files get a time that is later than anything in the activation before."""
    make_folders(target.parent)
    stamp = time.time_ns()
    if newer_than is not None:
        stamp = max(stamp, newest_ns(folder.activations / newer_than.name) + _STEP_NS)
    for relative, source in sorted(placement.linked.items()):
        path = target / check_relative(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        link_file(Path(os.path.realpath(source)), path, root=Path(os.path.realpath(folder.root)))
    for relative, content in sorted(placement.written.items()):
        path = target / check_relative(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as stream:
            stream.write(content)
        os.utime(path, ns=(stamp, stamp))
    sync_tree(target)
    sync_folder(target.parent)


def link_file(source: Path, path: Path, *, root: Path) -> None:
    """The same bytes under another name, as cheaply as the file system can. Symbolic links lead only to files below `root`."""
    try:
        os.link(source, path)
        return
    except FileNotFoundError:
        raise
    except OSError:
        pass
    if root in source.parents:
        base = os.path.realpath(path.parent)
        try:
            path.symlink_to(os.path.relpath(source, base))
            return
        except OSError:
            pass
    copy_all([Copy(path.name, source, path)], None)


# The link -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _fresh_link(folder: ModelFolder, activation: Activation) -> Iterator[Path]:
    """A link to the activation, beside the channel that it is to replace; called under the channel's lock.

    It is made before anybody looks where the channel is: an NFS client may remember for a minute what another machine has
    changed since, and forgets it when it writes into the folder itself.
    """
    folder.check_real(folder.channels)
    make_folders(folder.channels)
    _remove_unused_links(folder, activation.channel)
    fresh = folder.channels / f".{activation.channel}-{uuid.uuid4().hex[:8]}"
    os.symlink(f"../activations/{activation.name}", fresh)
    try:
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _point(folder: ModelFolder, fresh: Path, activation: Activation, before: Activation | None) -> None:
    channel = activation.channel
    # The lock makes movers take turns. A mover that slept past its lock's end must not undo what came after.
    if current(folder, channel) != before:
        raise StoreError(
            f"channel {channel} of {folder.model} was moved by somebody else meanwhile",
            where=str(folder.channels / channel),
            fix="look at `enginepress releases TARGET`, then decide again",
        )
    os.replace(fresh, folder.channels / channel)
    sync_folder(folder.channels)


def sweep(folder: ModelFolder, channel: str) -> None:
    """Removes activations that killed movers left: made, and never pointed to."""
    with folder.lock(f"channel-{channel}", about=f"tidying channel {channel} of {folder.model}"):
        for part in (folder.activations, folder.history(channel)):
            folder.check_real(part)
        now = current(folder, channel)
        moves = read_moves(folder.history(channel), current=now.name if now is not None else None)
        _remove_unused_links(folder, channel)
        if now is not None:
            _remove_older(folder, channel, keep={now.name, *(move.activation for move in moves[-2:])})


def _remove_unused_links(folder: ModelFolder, channel: str) -> None:
    """Links that were made and not renamed. Called under the channel's lock, so nobody is still at it."""
    for name in os.listdir(folder.channels):
        if re.fullmatch(rf"\.{channel}-[0-9a-f]{{8}}", name):
            (folder.channels / name).unlink(missing_ok=True)


def _remove_older(folder: ModelFolder, channel: str, *, keep: set[str]) -> None:
    for name in os.listdir(folder.activations):
        found = _parse(name)
        if found is not None and found.channel == channel and name not in keep:
            remove_tree(folder.activations / name)
        elif name.startswith(".removed-"):
            shutil.rmtree(folder.activations / name, ignore_errors=True)


def _parse(name: str) -> Activation | None:
    match = _ACTIVATION.fullmatch(name)
    return Activation(name, match[1], int(match[2])) if match else None
