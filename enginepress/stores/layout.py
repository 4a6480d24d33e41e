"""Where things lie in a file store, and what is refused there.

    <store>/<model>/model.json                      {"format": 1, "model": "tiny", "primary": null, "last": 7}
    <store>/<model>/releases/7/manifest.json        what the release is (enginepress.manifest)
    <store>/<model>/releases/7/repository/…         its files, read-only
    <store>/<model>/releases/7/records/<name>.json  what happened to it: checks, registration, promotion
    <store>/<model>/channels/production             -> ../activations/production-7-1c9f03ab
    <store>/<model>/activations/production-7-1c9f03ab/…   the release as its readers see it
    <store>/<model>/history/production.jsonl        every move of the channel
    <store>/<model>/index.txt                       a cache: build keys and digests of all releases (enginepress.stores.index)
    <store>/<model>/.partial/   .locks/             somebody is publishing, or was killed; who is working

`last` is the highest number ever published here, so that a deleted release's number is not given to another one. `primary`
is the URL of the store that allots the numbers, or null if this one does.
Everything below the store's folder is a real file or folder; only channels are symbolic links, and relative ones, so that a
store can be mounted anywhere.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import StoreError, UsageError, WorkspaceError
from enginepress.files import explain_os_error, write_atomic
from enginepress.json_text import json_value
from enginepress.locks import Lock, left_by_the_dead
from enginepress.names import CHANNEL_NAME, MODEL_NAME, RECORD_NAME, name_trouble

LAYOUT = 1

ABANDONED_SECONDS = 600.0
"""What has been without a heartbeat for so long was left by somebody who is dead."""

REMOVED = ".removed-"
"""How a folder's name starts that is being removed."""


@contextmanager
def store_errors(doing: str, *, where: Path | None = None) -> Iterator[None]:
    """What the file system or a lock refuses, as a StoreError that says what to mend."""
    try:
        yield
    except OSError as error:
        place = str(where) if where is not None and not error.filename else None
        raise explain_os_error(error, doing, StoreError, where=place) from None
    except WorkspaceError as error:
        raise StoreError(f"{doing} failed: {error.message}", where=error.where, fix=error.fix) from None


def check_model(name: str) -> str:
    return _checked(name, MODEL_NAME, "model")


def check_channel(name: str) -> str:
    return _checked(name, CHANNEL_NAME, "channel")


def check_record(name: str) -> str:
    return _checked(name, RECORD_NAME, "record")


def _checked(name: str, form: str, what: str) -> str:
    if trouble := name_trouble(name, form):
        raise UsageError(f"'{name}' is no name for a {what}: {trouble}")
    return name


_is_number = re.compile(r"[1-9][0-9]{0,8}").fullmatch
"""Called for each of thousands of names, so no function of ours stands between."""


def is_older(path: Path, *, than: float, by: float) -> bool:
    """Whether a file was written so many seconds before. Both times come from the file system: no two clocks are compared."""
    try:
        return than - path.lstat().st_mtime > by
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class ModelFolder:
    """The part of a store that belongs to one model."""

    root: Path
    model: str

    def __post_init__(self) -> None:
        check_model(self.model)

    @property
    def path(self) -> Path:
        return self.root / self.model

    @property
    def releases(self) -> Path:
        return self.path / "releases"

    @property
    def channels(self) -> Path:
        return self.path / "channels"

    @property
    def activations(self) -> Path:
        return self.path / "activations"

    @property
    def partial(self) -> Path:
        return self.path / ".partial"

    def release(self, number: int) -> Path:
        return self.releases / str(number)

    def manifest(self, number: int) -> Path:
        return self.release(number) / "manifest.json"

    def repository(self, number: int) -> Path:
        return self.release(number) / "repository"

    def records(self, number: int) -> Path:
        return self.release(number) / "records"

    def history(self, channel: str) -> Path:
        return self.path / "history" / f"{channel}.jsonl"

    def lock(self, name: str, *, about: str) -> Lock:
        path = self.path / ".locks" / f"{name}.json"
        self.check_real(path)
        return Lock(path, about=about)

    # Numbers --------------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """Numbers that are taken, ascending: whatever stands under such a name, whole or not."""
        with store_errors("reading the store", where=self.releases):
            try:
                return sorted(map(int, filter(_is_number, os.listdir(self.releases))))
            except FileNotFoundError:
                return []

    def next_number(self) -> int:
        """One more than any release that is here, or was."""
        last: int = self.description()["last"]
        return max([last, *self.numbers()]) + 1

    # model.json -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """`model.json`; as if empty, where there is none.

        Raises:
            StoreError: if it is damaged, belongs to another model, or is of a layout that this version does not know.
        """
        path = self.path / "model.json"
        self.check_real(path)
        with store_errors("reading the store"):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return {"format": LAYOUT, "model": self.model, "primary": None, "last": 0}
        try:
            data = json_value(text)
        except ValueError as error:
            raise self._damaged(path, f"not JSON ({error})") from None
        if not isinstance(data, dict) or not isinstance(data.get("format"), int):
            raise self._damaged(path, "no layout version in it")
        if data["format"] != LAYOUT:
            raise StoreError(
                f"the store has layout {data['format']}, and this enginepress knows layout {LAYOUT}",
                where=str(path),
                fix="use the enginepress that wrote it, or a newer one",
            )
        last, primary = data.get("last"), data.get("primary")
        if data.get("model") != self.model or not isinstance(last, int) or not isinstance(primary, (str, type(None))):
            raise self._damaged(path, f"it does not describe model '{self.model}'")
        return data

    def describe(self, *, published: int | None = None, primary: str | None = None) -> None:
        """Makes `model.json`, or raises its `last` to `published`.

        A power cut may bring an older `last` back. A release that is there counts by itself; who removes it syncs the folder.
        """
        path = self.path / "model.json"
        known = self.description()
        if path.exists() and (published is None or known["last"] >= published):
            return
        with self.lock("model", about=f"publishing {self.model}"):
            known = self.description()
            fresh = {**known, "primary": known["primary"] if path.exists() else primary}
            fresh["last"] = max(known["last"], published or 0)
            for left in self.path.glob(".model.json.*"):  # of a writer that was killed; the lock says that nobody writes now
                left.unlink(missing_ok=True)
            write_atomic(path, json.dumps(fresh, indent=1, sort_keys=True) + "\n", keep_name=published is None)

    def sweep_locks(self, *, now: float) -> None:
        """Removes what killed holders of locks left; `now` by the clock of the file system. It disturbs nobody's living lock."""
        locks = self.path / ".locks"
        self.check_real(locks)
        if not locks.is_dir():
            return
        for name in sorted(os.listdir(locks)):
            path = locks / name
            if not name.startswith("."):
                Lock(path, about="sweeping").forget_the_dead()
            # A living holder writes its lock anew every few seconds; a power cut may leave one that is empty.
            if is_older(path, than=now, by=ABANDONED_SECONDS) or (name.startswith(".") and left_by_the_dead(path)):
                with suppress(OSError):
                    path.unlink()

    def allot(self, *, primary: str | None, last: int) -> None:
        """Writes `model.json` anew; `last` never goes down."""
        with store_errors("writing model.json", where=self.path), self.lock("model", about=f"changing who numbers {self.model}"):
            known = self.description()
            fresh = {**known, "primary": primary, "last": max(last, known["last"])}
            write_atomic(self.path / "model.json", json.dumps(fresh, indent=1, sort_keys=True) + "\n")

    def _damaged(self, path: Path, problem: str) -> StoreError:
        return StoreError(
            f"is damaged: {problem}",
            where=str(path),
            fix="remove this one file: the next publish makes it anew from the releases",
        )

    # What stands there ------------------------------------------------------------------------------------------------

    def check_real(self, path: Path) -> None:
        """Refuses a symbolic link in place of a file or folder of the store, and a pipe or device, which would be waited for.

        Raises:
            StoreError: naming the link and where it leads.
        """
        current = self.root
        for part in path.relative_to(self.root).parts:
            current = current / part
            try:
                mode = os.lstat(current).st_mode
            except FileNotFoundError:
                return
            except OSError as error:
                raise explain_os_error(error, "reading the store", StoreError) from None
            if stat.S_ISLNK(mode):
                raise StoreError(
                    f"is a symbolic link (to {os.readlink(current)}); a store holds real files and folders",
                    where=str(current),
                    fix="put the real folder there; a store as a whole may lie behind a link",
                )
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise StoreError(
                    "is neither a file nor a folder, so it is not what was published",
                    where=str(current),
                    fix="put the real file there, from another store or a backup",
                )
