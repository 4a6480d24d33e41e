"""A store in a folder: local disk, NFS, the mount of a persistent volume. `enginepress.stores.layout` says what lies where.

Readers see whole releases and channels that point to whole activations, whatever is killed when. Publishers may work at the
same time on any number of machines; so may movers of channels.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

from enginepress.errors import StoreError
from enginepress.files import FileEntry, contained_path, hash_file, nearest_folder, remove_tree, sync_folder, write_atomic
from enginepress.freed import freed_bytes
from enginepress.json_text import json_value
from enginepress.manifest import Manifest
from enginepress.pieces import Pieces
from enginepress.stores import channels as links
from enginepress.stores import publishing
from enginepress.stores.copying import side_by_side
from enginepress.stores.fetching import PARTIAL, keep_whole
from enginepress.stores.history import Move, read_moves
from enginepress.stores.index import read_index
from enginepress.stores.layout import ABANDONED_SECONDS, REMOVED, ModelFolder, check_channel, check_record, is_older, store_errors
from enginepress.stores.resuming import resume_copy
from enginepress.stores.store import Allotment, Describe, Difference, PlaceAs, PlaceAt, Progress, Store
from enginepress.stores.strays import model_strays, store_strays


class FileStore(Store):
    """One store.

    Args:
        root: the folder, as this machine sees it.
        mount: the path under which readers see it, if not the same.
        url: as in the recipe, for messages and records.
    """

    def __init__(self, root: Path, *, mount: str | None = None, url: str | None = None) -> None:
        super().__init__(url or f"file://{root}")
        self.root = root
        self.mount = mount

    def _folder(self, model: str) -> ModelFolder:
        return ModelFolder(self.root, model)

    # Releases ---------------------------------------------------------------------------------------------------------

    def numbers(self, model: str) -> list[int]:
        folder = self._folder(model)
        folder.description()
        return folder.numbers()

    def manifest(self, model: str, number: int) -> Manifest:
        folder = self._folder(model)
        path = folder.manifest(number)
        folder.check_real(path)
        folder.check_real(folder.repository(number))
        try:
            with store_errors("reading a manifest", where=path):
                text = path.read_bytes()
        except StoreError:
            if os.path.lexists(path):
                raise
            if not folder.release(number).exists():
                raise self._no_such(model, number) from None
            raise StoreError(
                f"is gone, so nobody can tell what release {number} of {model} is",
                where=str(path),
                fix="copy the file from another store or a backup, or remove the release's folder: "
                "the next run of its recipe publishes it anew",
            ) from None
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

    def location(self, model: str, number: int) -> str:
        return str(self._folder(model).repository(number))

    def fetch(self, model: str, number: int, target: Path, *, progress: Progress | None = None) -> Manifest:
        manifest = self.manifest(model, number)
        source = self._folder(model).repository(number)
        with store_errors("reading a release", where=source):
            for entry in keep_whole(manifest, target, progress):
                self._folder(model).check_real(source / entry.path)
                path, copy = contained_path(target, entry.path), target / PARTIAL / entry.sha256
                resume_copy(source / entry.path, entry, copy, progress=progress)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(copy, path)
            if (target / PARTIAL).exists():
                remove_tree(target / PARTIAL)
        return manifest

    def _newest(self, model: str, field: str, value: str) -> Manifest | None:
        """By the index; the manifests of releases that it does not know are read."""
        folder = self._folder(model)
        index = read_index(folder)
        for number in reversed(self.numbers(model)):
            if (keys := index.get(number)) is not None:
                wanted = value in keys
            else:
                text = self._manifest_text(model, number)
                wanted = text is not None and value.encode() in text
            if wanted:
                manifest = self.manifest(model, number)
                if getattr(manifest, field) == value:
                    return manifest
        return None

    def _manifest_text(self, model: str, number: int) -> bytes | None:
        folder = self._folder(model)
        with store_errors("reading a manifest", where=folder.manifest(number)):
            try:
                return folder.manifest(number).read_bytes()
            except (FileNotFoundError, NotADirectoryError):  # something else of that name, or just deleted
                return None

    def models(self) -> list[str]:
        with store_errors("reading the store", where=self.root):
            try:
                names = sorted(e.name for e in os.scandir(self.root) if e.is_dir())
            except FileNotFoundError:
                return []
        return [name for name in names if (self.root / name / "model.json").is_file()]

    def publish(
        self,
        model: str,
        *,
        place: PlaceAs,
        describe: Describe,
        number: int | None = None,
        primary: str | None = None,
        expected: Mapping[Path, str] | None = None,
        pieces: Mapping[Path, Pieces] | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        return publishing.publish(
            self._folder(model),
            place=place,
            describe=describe,
            number=number,
            primary=primary,
            expected=expected,
            progress=progress,
        )

    def check_publishable(self, model: str, *, allots: bool) -> None:
        """As `Store.check_publishable`: the right to write, and who gives the numbers. Writes nothing."""
        publishing.check_publishable(self._folder(model), allots=allots)

    def free_bytes(self) -> int:
        """As `Store.free_bytes`, for this user: a quota is not seen."""
        with store_errors("looking at the store", where=self.root):
            return shutil.disk_usage(nearest_folder(self.root)).free

    def verify(self, model: str, number: int, *, contents: bool = True, progress: Progress | None = None) -> list[Difference]:
        manifest = self.manifest(model, number)
        root = self._folder(model).repository(number)
        tell = _one_at_a_time(progress)

        def compare(entry: FileEntry) -> Difference | None:
            different = _difference(root / entry.path, entry, contents)
            if tell is not None:
                tell(entry.size)
            return different

        with store_errors("verifying a release", where=root):
            found = [d for d in side_by_side(compare, manifest.files) if d is not None]
            found += [Difference(path, "foreign") for path in _foreign(root, {e.path for e in manifest.files})]
        return sorted(found, key=lambda d: d.path)

    def remove(self, model: str, number: int) -> None:
        folder = self._folder(model)
        release = folder.release(number)
        folder.check_real(release)
        with (
            store_errors("removing a release", where=release),
            # Who points a channel to it holds the same lock.
            folder.lock(f"release-{number}", about=f"removing release {number} of {model}"),
        ):
            if pointing := sorted(c for c, n in self.channels(model).items() if n == number):
                raise StoreError(
                    f"release {number} of {model} is on {', '.join(pointing)}, so it is not removed",
                    where=self.location(model, number),
                    fix="move the channel first",
                )
            if not release.is_dir():
                raise self._no_such(model, number)
            folder.describe(published=number)
            sync_folder(folder.path)
            doomed = folder.releases / f"{REMOVED}{number}-{uuid.uuid4().hex[:8]}"
            os.rename(release, doomed)
            sync_folder(folder.releases)
            shutil.rmtree(doomed, ignore_errors=True)

    def freed(self, model: str, numbers: Iterable[int]) -> int:
        """Files that releases or activations share are freed with the last of them; shared blocks do not count either."""
        folder = self._folder(model)
        with store_errors("reading the store", where=folder.releases):
            return freed_bytes(folder.release(number) for number in numbers)

    def sweep(self, model: str) -> None:
        folder = self._folder(model)
        folder.description()
        with store_errors("removing what killed processes left", where=folder.path):
            if folder.releases.is_dir():
                publishing.sweep_alone(folder)
                for channel in links.names(folder):
                    links.sweep(folder, channel)

    def _no_such(self, model: str, number: int) -> StoreError:
        known = ", ".join(map(str, self.numbers(model))) or "none"
        return StoreError(f"has no release {number} of {model}", where=self.url, fix=f"there are: {known}")

    def allotment(self, model: str) -> Allotment:
        folder = self._folder(model)
        known = folder.description()
        return Allotment(known["primary"], max([known["last"], *folder.numbers()]))

    def allot(self, model: str, allotment: Allotment) -> None:
        self._folder(model).allot(primary=allotment.primary, last=allotment.last)

    def strays(self, model: str | None = None) -> list[str]:
        if model is None:
            return store_strays(self.root)
        folder = self._folder(model)
        folder.check_real(folder.path)
        return model_strays(folder.path)

    # Records ----------------------------------------------------------------------------------------------------------

    def write_record(self, model: str, number: int, name: str, value: Mapping[str, Any]) -> None:
        folder = self._folder(model)
        path = folder.records(number) / f"{check_record(name)}.json"
        folder.check_real(path)
        if not folder.manifest(number).is_file():
            raise StoreError(f"has no release {number} of {model}", where=self.url)
        with store_errors("writing a record", where=path):
            # A release that is being removed must not come back as a folder that holds nothing but a record.
            write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", make_folder=False)
            written = path.stat().st_mtime
            for left in path.parent.glob(f".{path.name}.*"):
                if is_older(left, than=written, by=ABANDONED_SECONDS):
                    left.unlink(missing_ok=True)

    def read_record(self, model: str, number: int, name: str) -> dict[str, Any] | None:
        folder = self._folder(model)
        path = folder.records(number) / f"{check_record(name)}.json"
        folder.check_real(path)
        with store_errors("reading a record", where=path):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            data = json_value(text)
        except ValueError as error:
            raise _damaged_record(path, f"not JSON ({error})") from None
        if not isinstance(data, dict):
            raise _damaged_record(path, "not a JSON object")
        return data

    def record_names(self, model: str, number: int) -> list[str]:
        folder = self._folder(model).records(number)
        with store_errors("reading records", where=folder):
            try:
                names = sorted(os.listdir(folder))
            except FileNotFoundError:
                return []
        return [n.removesuffix(".json") for n in names if n.endswith(".json") and not n.startswith(".")]

    def records(self, model: str, number: int) -> dict[str, dict[str, Any]]:
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
        found = links.resolved(self._folder(model), name)
        return found[0] if found is not None else None

    def channel_names(self, model: str) -> list[str]:
        return links.names(self._folder(model))

    def channels(self, model: str) -> dict[str, int]:
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
        place: PlaceAt,
        *,
        expect: int | EllipsisType | None = ...,
        who: str,
        why: str,
        back: bool = False,
    ) -> Path:
        """As `Store.activate`, by one rename to a fresh activation.

        Absolute paths in an activation's configs start at the activation itself, and so stay right for a running server when
        the channel moves on.

        Returns:
            The new activation.
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

    def restore_channel(self, model: str, channel: str, moves: Sequence[Move], place: PlaceAt) -> None:
        self.manifest(model, moves[-1].release)
        links.restore(self._folder(model), channel, moves, place, reader_root=self._reader_root())

    def history(self, model: str, channel: str) -> list[Move]:
        folder = self._folder(model)
        now = links.current(folder, channel)
        path = folder.history(channel)
        folder.check_real(path)
        with store_errors("reading a channel's history", where=path):
            return read_moves(path, current=now.name if now is not None else None)

    def _reader_root(self) -> str:
        return (self.mount or os.path.abspath(self.root)).rstrip("/")


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    """Callers' counters are not made for several threads."""
    if progress is None:
        return None
    lock = threading.Lock()

    def tell(count: int) -> None:
        with lock:
            progress(count)

    return tell


def _difference(path: Path, entry: FileEntry, contents: bool) -> Difference | None:
    if path.is_symlink():
        return Difference(entry.path, "link")
    if not path.is_file():
        return Difference(entry.path, "missing")
    if path.stat().st_size != entry.size or (contents and hash_file(path) != entry.sha256):
        return Difference(entry.path, "changed")
    return None


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
