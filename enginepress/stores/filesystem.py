"""A store in a folder: local disk, NFS, the mount of a persistent volume. `enginepress.stores.layout` says what lies where.

Readers see whole releases and channels that point to whole activations, whatever is killed when. Publishers may work at the
same time on any number of machines; so may movers of channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

from enginepress.errors import StoreError
from enginepress.files import hash_file, write_atomic
from enginepress.manifest import Manifest
from enginepress.stores import channels as links
from enginepress.stores import publishing
from enginepress.stores.history import Move, came_before, read_moves
from enginepress.stores.layout import ModelFolder, check_channel, check_record, store_errors


@dataclass(frozen=True)
class Difference:
    """Where a release is not what its manifest says. `path` is relative to the release's `repository/`."""

    path: str
    problem: Literal["missing", "changed", "foreign", "link"]

    def __str__(self) -> str:
        words = {
            "missing": "is missing",
            "changed": "is not what was published",
            "foreign": "does not belong to the release",
            "link": "is a symbolic link, not the file",
        }
        return f"{self.path} {words[self.problem]}"


class FileStore:
    """One store.

    Args:
        root: the folder, as this machine sees it.
        mount: the path under which readers see it, if not the same.
        url: as in the recipe, for messages and records.
    """

    def __init__(self, root: Path, *, mount: str | None = None, url: str | None = None) -> None:
        self.root = root
        self.mount = mount
        self.url = url or f"file://{root}"

    def _folder(self, model: str) -> ModelFolder:
        return ModelFolder(self.root, model)

    # Releases ---------------------------------------------------------------------------------------------------------

    def numbers(self, model: str) -> list[int]:
        """Release numbers, ascending. Cheap: reads no manifest."""
        folder = self._folder(model)
        folder.description()
        return folder.numbers()

    def releases(self, model: str) -> list[Manifest]:
        """Every release, oldest first.

        Raises:
            StoreError: for a damaged one. `numbers` and `manifest` get at the others.
        """
        return [self.manifest(model, number) for number in self.numbers(model)]

    def manifest(self, model: str, number: int) -> Manifest:
        """Raises StoreError if there is no such release, or its manifest is damaged or that of another release."""
        folder = self._folder(model)
        path = folder.manifest(number)
        folder.check_real(path)
        folder.check_real(folder.repository(number))
        try:
            with store_errors("reading a manifest", where=path):
                text = path.read_bytes()
        except StoreError:
            if folder.release(number).exists():
                raise
            known = ", ".join(map(str, self.numbers(model))) or "none"
            raise StoreError(f"has no release {number} of {model}", where=self.url, fix=f"there are: {known}") from None
        manifest = Manifest.from_text(text, where=str(path))
        if (manifest.model, manifest.release) != (model, number):
            raise StoreError(
                f"is the manifest of release {manifest.release} of {manifest.model}; the folder was moved or copied here",
                where=str(path),
                fix="move the folder back to its own number and model",
            )
        return manifest

    def repository(self, model: str, number: int) -> Path:
        """The release's model repository. Raises StoreError if there is no such release."""
        self.manifest(model, number)
        return self._folder(model).repository(number)

    def find(self, model: str, build_key: str) -> Manifest | None:
        """The newest release with this build key."""
        return self._newest(model, "build_key", build_key)

    def find_content(self, model: str, content_digest: str) -> Manifest | None:
        """The newest release with this content."""
        return self._newest(model, "content_digest", content_digest)

    def _newest(self, model: str, field: str, value: str) -> Manifest | None:
        """Newest first, since that is almost always the one looked for. Reads small files and keeps no index.

        A manifest without the digest in its text is passed over unparsed, so that a damaged old one disturbs nobody.
        """
        folder = self._folder(model)
        for number in reversed(self.numbers(model)):
            with store_errors("reading a manifest"):
                try:
                    text = folder.manifest(number).read_bytes()
                except (FileNotFoundError, NotADirectoryError):  # something else of that name, or just deleted
                    continue
            if value.encode() in text:
                manifest = self.manifest(model, number)
                if getattr(manifest, field) == value:
                    return manifest
        return None

    def publish(
        self,
        model: str,
        *,
        place: publishing.Place,
        describe: publishing.Describe,
        number: int | None = None,
        primary: str | None = None,
        expected: Mapping[Path, str] | None = None,
        progress: publishing.Progress | None = None,
    ) -> Manifest:
        """Adds a release: readers see all of it or nothing.

        Args:
            place: the repository under a number. Called again with a higher one if somebody else was faster.
            describe: the manifest for a number and the files as they were written, hashed while they were copied.
            number: take this one or refuse; None: the next free one. Stores that follow a primary one are given it.
            primary: URL of the store that allots the numbers, kept when the first release with a given number arrives.
            expected: sha256 that source files must have, where they were hashed before; a changed one is refused.
            progress: called with the number of bytes just copied.

        Raises:
            StoreError: number taken, store full or not writable, bytes that are not the expected ones.
        """
        return publishing.publish(
            self._folder(model),
            place=place,
            describe=describe,
            number=number,
            primary=primary,
            expected=expected,
            progress=progress,
        )

    def verify(
        self, model: str, number: int, *, contents: bool = True, progress: publishing.Progress | None = None
    ) -> list[Difference]:
        """Reads and hashes every file of a release and says where it is not what its manifest says.

        Args:
            contents: False compares names and sizes only, which takes no time.

        Raises:
            StoreError: if there is no such release, or its manifest is damaged.
        """
        manifest = self.manifest(model, number)
        root = self._folder(model).repository(number)
        found: list[Difference] = []
        with store_errors("verifying a release", where=root):
            for entry in manifest.files:
                path = root / entry.path
                if path.is_symlink():
                    found.append(Difference(entry.path, "link"))
                elif not path.is_file():
                    found.append(Difference(entry.path, "missing"))
                elif path.stat().st_size != entry.size or (contents and hash_file(path) != entry.sha256):
                    found.append(Difference(entry.path, "changed"))
                if progress is not None:
                    progress(entry.size)
            found += [Difference(path, "foreign") for path in _foreign(root, {e.path for e in manifest.files})]
        return sorted(found, key=lambda d: d.path)

    # Records ----------------------------------------------------------------------------------------------------------

    def write_record(self, model: str, number: int, name: str, value: Mapping[str, Any]) -> None:
        """Keeps a small JSON object beside a release. The last one of a name stays."""
        folder = self._folder(model)
        path = folder.records(number) / f"{check_record(name)}.json"
        folder.check_real(path)
        if not folder.manifest(number).is_file():
            raise StoreError(f"has no release {number} of {model}", where=self.url)
        with store_errors("writing a record", where=path):
            write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def read_record(self, model: str, number: int, name: str) -> dict[str, Any] | None:
        """The record, or None. Raises StoreError for one that is damaged."""
        folder = self._folder(model)
        path = folder.records(number) / f"{check_record(name)}.json"
        folder.check_real(path)
        with store_errors("reading a record", where=path):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            data = json.loads(text)
        except ValueError as error:
            raise _damaged_record(path, f"not JSON ({error})") from None
        if not isinstance(data, dict):
            raise _damaged_record(path, "not a JSON object")
        return data

    def records(self, model: str, number: int) -> dict[str, dict[str, Any]]:
        """All records of a release by name, in the order in which they were last written."""
        folder = self._folder(model).records(number)
        with store_errors("reading records", where=folder):
            try:
                entries = [e for e in os.scandir(folder) if e.name.endswith(".json") and not e.name.startswith(".")]
            except FileNotFoundError:
                return {}
            entries.sort(key=lambda e: (e.stat(follow_symlinks=False).st_mtime_ns, e.name))
        found = {}
        for entry in entries:
            name = entry.name.removesuffix(".json")
            record = self.read_record(model, number, name)
            if record is not None:
                found[name] = record
        return found

    # Channels ---------------------------------------------------------------------------------------------------------

    def channel(self, model: str, name: str) -> int | None:
        """The release that a channel points to, or None if there is no such channel.

        Raises:
            StoreError: if the channel's link dangles or leads elsewhere.
        """
        found = links.resolved(self._folder(model), name)
        return found[0] if found is not None else None

    def channels(self, model: str) -> dict[str, int]:
        """Every channel and the release that its link names. Does not look whether it dangles: `channel` does."""
        folder = self._folder(model)
        found = {name: links.current(folder, name) for name in links.names(folder)}
        return {name: activation.release for name, activation in found.items() if activation is not None}

    def channel_path(self, model: str, channel: str) -> Path:
        """The link that is the channel: what a server on this machine names as its model repository."""
        return self._folder(model).channels / check_channel(channel)

    def activation(self, model: str, channel: str) -> Path | None:
        """The folder that a channel points to now: what its readers see. Raises StoreError as `channel` does."""
        found = links.resolved(self._folder(model), channel)
        return found[1] if found is not None else None

    def activate(
        self,
        model: str,
        channel: str,
        number: int,
        place: links.Place,
        *,
        expect: int | EllipsisType | None = ...,
        who: str,
        why: str,
        back: bool = False,
    ) -> Path:
        """Points a channel to a release, by one rename.

        Args:
            place: the release, placed for the path at which readers will see this very activation. Absolute paths in
                configs start there, and so stay right for a running server when the channel moves on.
            expect: move it only if it is on this release now (None: on none).
            who, why: for the history.
            back: it is a rollback (`previous`).

        Returns:
            The new activation.

        Raises:
            StoreError: no such release, not where it was expected, store full or not writable.
        """
        if different := self.verify(model, number, contents=False):
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            raise StoreError(
                f"release {number} of {model} is damaged ({different[0]}{more}), so no channel is pointed to it",
                where=str(self._folder(model).repository(number)),
                fix="promote another release, or restore this one's files from another store or a backup",
            )
        return links.activate(
            self._folder(model),
            channel,
            number,
            place,
            reader_root=self._reader_root(),
            expect=expect,
            who=who,
            why=why,
            back=back,
        )

    def history(self, model: str, channel: str) -> list[Move]:
        """Every move of a channel, oldest first."""
        folder = self._folder(model)
        now = links.current(folder, channel)
        path = folder.history(channel)
        folder.check_real(path)
        with store_errors("reading a channel's history", where=path):
            return read_moves(path, current=now.name if now is not None else None)

    def previous(self, model: str, channel: str) -> int:
        """The release to which a rollback goes: the one before, of those that are still in the store.

        Raises:
            StoreError: if there is none.
        """
        folder = self._folder(model)
        now = links.current(folder, channel)
        past = [(move.release, move.back) for move in self.history(model, channel)]
        if now is None:
            raise StoreError(f"has no channel {channel} of {model}", where=self.url, fix="`enginepress releases` lists them")
        there = set(self.numbers(model))
        found = came_before([*past, (now.release, False)], there.__contains__)
        if found is None:
            raise StoreError(
                f"channel {channel} of {model} is on release {now.release} and there is no earlier release to go back to",
                where=self.url,
                fix="`enginepress releases` lists what is there; `enginepress rollback … --to N` names one",
            )
        return found

    def _reader_root(self) -> str:
        return (self.mount or os.path.abspath(self.root)).rstrip("/")


def _foreign(root: Path, known: set[str]) -> list[str]:
    """Files that are not in the manifest, and folders that hold none that are. Triton takes every folder for a model."""
    parents = {"/".join(path.split("/")[:depth]) for path in known for depth in range(1, path.count("/") + 1)}
    found = []
    for base, folders, files in os.walk(root):
        inside = Path(base).relative_to(root)
        for name in files:
            relative = (inside / name).as_posix()
            if relative not in known:
                found.append(relative)
        for name in list(folders):
            relative = (inside / name).as_posix()
            if relative not in parents and relative not in known:
                found.append(relative)
                folders.remove(name)
    return found


def _damaged_record(path: Path, problem: str) -> StoreError:
    return StoreError(f"is damaged: {problem}", where=str(path), fix="remove this file; the next run writes it anew")
