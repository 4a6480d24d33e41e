"""Who is writing a repository of a store on S3, and what killed publishers left.

    publishers/7-1c9f03ab.json    {"format": 1, "owner": "…", "content": "…", "kernel": "…", "pid": 12, "start": "993", "beat": 3,
                                   "removing": false}

The note is there before the first object of its repository and goes after the last one, so what has no note belongs to a
release. A publisher of this machine that is gone is known by its process; another one counts as dead when its note has not
been renewed for `ABANDONED_SECONDS` on the server's own clock. Who publishes the same content goes on with a dead one's
repository; others remove it, after their own release has taken its number, so that a publisher that was only asleep can
no longer commit it. Both take the note over first, on the condition that nobody else has (where the server compares).
Who removes a release makes such a note first, too, and only one can; movers of channels look for it (`is_being_removed`).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enginepress.errors import StoreError
from enginepress.json_text import json_value
from enginepress.process import is_gone, kernel, process_start
from enginepress.sources import Interrupted
from enginepress.stores.s3.client import Missing, StoreClient, Unmet
from enginepress.stores.s3.layout import REPOSITORY, ModelKeys, fresh_name, hoped_for, is_repository_name
from enginepress.stores.s3.probe import Guarantees

BEAT_SECONDS = 60.0
ABANDONED_SECONDS = 900.0

_mine: set[str] = set()
"""Owners that are at work in this process: a note of this process with another owner was left when something failed."""


@dataclass(frozen=True)
class Note:
    """One publisher's note."""

    name: str
    owner: str
    content: str
    etag: str
    modified: datetime
    kernel: str
    pid: int
    start: str

    @property
    def number(self) -> int:
        """The release number that it hopes for."""
        return hoped_for(self.name)

    def is_dead(self, now: datetime) -> bool:
        if self.owner in _mine:
            return False
        here = {"kernel": self.kernel, "pid": self.pid, "start": self.start}
        if (self.kernel == kernel() and self.pid == os.getpid()) or is_gone(here):
            return True
        return (now - self.modified).total_seconds() > ABANDONED_SECONDS


class Publisher:
    """Our own note, renewed while we work.

    Attributes:
        name: of the repository that is being written.
        resumed: whether objects of a dead publisher may be there already.
        dead: notes of dead publishers that were found.
    """

    def __init__(self, client: StoreClient, keys: ModelKeys, guarantees: Guarantees) -> None:
        self._client = client
        self._keys = keys
        self._guarantees = guarantees
        self._owner = uuid.uuid4().hex
        self._beat = 0
        self._etag = ""
        self._content = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lost = False
        self._spent: list[str] = []
        self.name = ""
        self.resumed = False
        self.dead: list[Note] = []

    @contextlib.contextmanager
    def at_work(self, number: int, content: str) -> Iterator[None]:
        """Makes the note, or takes over that of a dead publisher of the same content; renews it until the end.

        What fails in between leaves the note, so that the next publisher finds what is there.
        """
        _mine.add(self._owner)
        thread = threading.Thread(target=self._keep_beating, name="publishing", daemon=True)
        try:
            self._begin(number, content)
            thread.start()
            yield
        finally:
            self._stop.set()
            if thread.ident is not None:
                thread.join()
            _mine.discard(self._owner)

    def begin_removal(self, name: str) -> bool:
        """Makes a note that this repository is being removed: should we be killed, the next publisher goes on with it.

        Returns:
            False if there is a note already: somebody is at work with this repository, or was killed.
        """
        _mine.add(self._owner)
        self.name = name
        try:
            self._write(name, None, removing=True)
            return True
        except (Missing, Unmet):
            self.end_removal()
            return False
        except BaseException:
            self.end_removal()
            raise

    def end_removal(self) -> None:
        """If the note is still there, it is that of somebody who was killed."""
        _mine.discard(self._owner)

    def give_up(self) -> None:
        """Takes the note back: the release stays."""
        self._client.delete(self._keys.publisher(self.name))

    def _begin(self, number: int, content: str) -> None:
        self._content = content
        self.name = fresh_name(number)
        self._write(self.name, None)
        notes, now = read_notes(self._client, self._keys, own=self.name)
        self.dead = [note for note in notes if note.is_dead(now)]
        for note in self.dead:
            if note.number == number and note.content == content and self._take(note):
                self._client.delete(self._keys.publisher(self.name))
                self.name, self.resumed = note.name, True
                self.dead.remove(note)
                return

    def check(self) -> None:
        """Raises StoreError if another publisher took this for dead and has taken over."""
        if self._lost:
            raise StoreError(
                f"publishing was taken over by somebody else: this process was silent for {ABANDONED_SECONDS / 60:.0f} minutes",
                where=self._client.where(self._keys.publisher(self.name)),
                fix="run again",
            )

    def renumber(self, number: int) -> str:
        """A fresh repository for another number; returns the name of the one before, which `finish` removes."""
        with self._lock:
            before, fresh = self.name, fresh_name(number)
            self._write(fresh, None)
            self._spent.append(before)
            self.name = fresh
        return before

    def finish(self, committed: int) -> None:
        """After the commit: removes our notes, and what is left of ours and of dead publishers."""
        self._stop.set()
        for name in self._spent:
            # Who took us for dead, or was dead itself, may have committed it all the same.
            settle(self._client, self._keys, name)
        for upload in self._client.uploads(self._keys.repository(self.name)):
            self._client.abort(upload.key, upload.id)  # begun by an attempt whose answer was lost
        self._client.delete(self._keys.publisher(self.name))
        for note in self.dead:
            # Only below a number that is taken can nobody commit any more.
            if note.number <= committed and self._take(note):
                settle(self._client, self._keys, note.name)

    def sweep(self, committed: int) -> None:
        """Removes what dead publishers left for numbers up to this one, all of which are taken."""
        notes, _ = read_notes(self._client, self._keys)
        if not notes:
            return
        _mine.add(self._owner)
        clock = fresh_name(committed + 1)
        try:
            self._write(clock, None)  # tells the server's time
            notes, now = read_notes(self._client, self._keys, own=clock)
            for note in notes:
                if note.number <= committed and note.is_dead(now) and self._take(note):
                    settle(self._client, self._keys, note.name)
        finally:
            self._client.delete(self._keys.publisher(clock))
            _mine.discard(self._owner)

    def withdraw(self) -> None:
        """Removes what was sent and the note: for a release that is refused, and would be again."""
        self._stop.set()
        for name in [*self._spent, self.name]:
            remove_repository(self._client, self._keys, name)

    # The note ---------------------------------------------------------------------------------------------------------

    def _take(self, note: Note) -> bool:
        """Whether the note of a dead publisher is ours now."""
        try:
            self._write(note.name, note.etag)
        except (Missing, Unmet):
            return False
        return True

    def _write(self, name: str, before: str | None, *, removing: bool = False) -> None:
        self._beat += 1
        data = {
            "format": 1,
            "owner": self._owner,
            "content": self._content,
            "kernel": kernel(),
            "pid": os.getpid(),
            "start": process_start(os.getpid()),
            "beat": self._beat,
            "removing": removing,
        }
        condition = self._guarantees.written(before) if before is not None and self._guarantees.match != "none" else None
        key, body = self._keys.publisher(name), (json.dumps(data, sort_keys=True) + "\n").encode()
        try:
            fresh = removing and self._guarantees.create != "ignored"
            self._etag = self._client.put(key, body, if_match=condition, if_none_match=fresh)
        except Unmet:
            # The answer to an attempt that did it may have been lost.
            found, stored = self._client.get(key)
            if found != body:
                raise
            self._etag = stored.etag

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with self._lock:
                try:
                    self._write(self.name, self._etag)
                except (Missing, Unmet):
                    self._lost = not self._stop.is_set()
                    return
                except (StoreError, Interrupted):
                    pass  # the network may come back before the note is too old


def read_notes(client: StoreClient, keys: ModelKeys, *, own: str = "") -> tuple[list[Note], datetime]:
    """The notes of others, and the time on the server's clock, which the note `own` was just written by."""
    listed = {s.key.rpartition("/")[2].removesuffix(".json"): s for s in client.listing(keys.publishers)}
    now = listed[own].modified if own in listed else max((s.modified for s in listed.values()), default=datetime.min)
    names = [name for name in listed if name != own and is_repository_name(name)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: _note(client, keys, name), names)
    return [note for note in found if note is not None], now


def is_being_removed(client: StoreClient, keys: ModelKeys, name: str) -> bool:
    """Whether somebody is removing this repository, or was killed before it was removed."""
    try:
        return bool(json_value(client.get(keys.publisher(name))[0])["removing"])
    except (Missing, ValueError, KeyError, TypeError):
        return False


def _note(client: StoreClient, keys: ModelKeys, name: str) -> Note | None:
    try:
        data, stored = client.get(keys.publisher(name))
        fields: dict[str, Any] = json_value(data)
        return Note(
            name,
            str(fields["owner"]),
            str(fields["content"]),
            stored.etag,
            stored.modified,
            str(fields["kernel"]),
            int(fields["pid"]),
            str(fields["start"]),
        )
    except Missing:
        return None
    except (ValueError, KeyError, TypeError):
        return None


# What is left over ----------------------------------------------------------------------------------------------------


def settle(client: StoreClient, keys: ModelKeys, name: str) -> bool:
    """Removes a repository at which nobody works any more, unless it was committed, and its note. Whether it was removed.

    A dead remover's is committed until its manifest is empty; then its records go as well.
    """
    number, removed = hoped_for(name), False
    try:
        text, manifest = client.get(keys.manifest(number))
        committed = bool(text) and manifest.metadata.get(REPOSITORY) == name
        removed = not text
    except Missing:
        text, committed = b"", False
    if committed:
        client.delete(keys.publisher(name))
        return False
    if removed:
        client.delete_all([s.key for s in client.listing(keys.records(number))])
    forget_hints(client, read_hints(client, keys, name), text)
    remove_repository(client, keys, name)
    return True


def remove_repository(client: StoreClient, keys: ModelKeys, name: str) -> None:
    """Every object and upload of a repository that is no release, and at last its note."""
    folder = keys.repository(name)
    for upload in client.uploads(folder):
        client.abort(upload.key, upload.id)
    client.delete_all([s.key for s in client.listing(folder)])
    client.delete_all([keys.etags(name), keys.publisher(name)])


def read_hints(client: StoreClient, keys: ModelKeys, name: str) -> list[str]:
    """Keys of the hints that lead to a repository that was about to be committed."""
    try:
        hints = json_value(client.get(keys.etags(name))[0])["hints"]
        return [str(hint) for hint in hints if str(hint).startswith(keys.base)]
    except (Missing, ValueError, KeyError, TypeError):
        return []


def forget_hints(client: StoreClient, hints: Sequence[str], committed: bytes) -> None:
    """Removes hints to a number, unless they are right for the manifest that was committed under it."""
    client.delete_all([hint for hint in hints if hint.split("/")[-2].encode() not in committed])
