"""Publishing: a release is written apart, hashed while it is copied, synced, and renamed into place whole.

    .partial/<id>.owner     a lock held by the publisher, so that others know whether it lives
    .partial/<id>/<n>/…     the release under the number that it hopes to get

The number is decided by the rename: `releases/<n>` cannot be taken twice. Who comes second places the repository again
under the next number, and its heavy files move there by rename; nothing is copied twice.
What a killed publisher left in `.partial/` is removed by the next one. A publisher on another machine counts as dead when
its lock has been without a heartbeat for `ABANDONED_SECONDS` on the clock of the file system itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from enginepress.canonical import sha256_hex
from enginepress.errors import EnginepressError, LockedError, StoreError
from enginepress.files import FileEntry, check_relative, commit_folder, copy_hashed, sync_tree
from enginepress.locks import Lock, left_by_the_dead
from enginepress.manifest import Manifest
from enginepress.repository import Placement
from enginepress.stores.layout import ModelFolder, store_errors
from enginepress.stores.store import Describe, PlaceAs, Progress

ABANDONED_SECONDS = 600.0


def publish(
    folder: ModelFolder,
    *,
    place: PlaceAs,
    describe: Describe,
    number: int | None = None,
    primary: str | None = None,
    expected: Mapping[Path, str] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Publishes one release; see `FileStore.publish`."""
    with store_errors(f"publishing {folder.model}", where=folder.path):
        folder.check_real(folder.releases)
        _check_turn(folder, number)
        folder.releases.mkdir(parents=True, exist_ok=True)
        folder.describe(primary=primary)
        with _own_partial(folder) as scratch:
            wanted = number or folder.next_number()
            tree = _Tree(scratch / str(wanted), place(wanted))
            tree.copy(expected or {}, progress)
            while True:
                manifest = tree.describe(folder.model, wanted, describe)
                if commit_folder(tree.root, folder.release(wanted)):
                    break
                if number is not None:
                    raise _taken(folder, number)
                wanted = folder.next_number()
                tree = tree.renumbered(scratch / str(wanted), place(wanted), progress)
            # From here on the release is published. Should this fail, the next publish does it.
            with contextlib.suppress(OSError, EnginepressError):
                folder.describe(published=wanted)
    return manifest


def _check_turn(folder: ModelFolder, number: int | None) -> None:
    primary = folder.description()["primary"]
    if number is None and primary is not None:
        raise StoreError(
            f"follows the store {primary}, which allots the release numbers of {folder.model}",
            where=str(folder.path),
            fix="name that store first in the recipe; to make this one the primary, set `primary` to null in its model.json",
        )
    if number is not None and number in folder.numbers():
        raise _taken(folder, number)


def _taken(folder: ModelFolder, number: int) -> StoreError:
    return StoreError(
        f"{folder.model} has another release {number} there already, so this one cannot get its number",
        where=str(folder.release(number)),
        fix="a store holds the releases of one primary store: name another store, or another folder in it",
    )


# The new release ------------------------------------------------------------------------------------------------------


class _Tree:
    """A release being written. `root` becomes `releases/<n>`."""

    def __init__(self, root: Path, placement: Placement) -> None:
        self.root = root
        self.placement = placement
        self.entries: dict[str, FileEntry] = {}

    def copy(self, expected: Mapping[Path, str], progress: Progress | None) -> None:
        """Writes every file of the placement."""
        for relative, source in sorted(self.placement.linked.items()):
            self._copy(relative, source, progress)
            wanted = expected.get(source)
            if wanted is not None and wanted != self.entries[relative].sha256:
                raise StoreError(
                    f"was changed since it was checked: its sha256 is {self.entries[relative].sha256}, not {wanted}",
                    where=str(source),
                    fix="run again with `--force`; if it happens again, check the disk",
                )
        self._write()

    def renumbered(self, root: Path, placement: Placement, progress: Progress | None) -> _Tree:
        """The same release under another number. What was copied is moved; this tree is gone afterwards."""
        tree = _Tree(root, placement)
        spare: dict[Path, list[str]] = {}
        for relative, source in self.placement.linked.items():
            spare.setdefault(source, []).append(relative)
        for relative, source in sorted(placement.linked.items()):
            if not spare.get(source):
                tree._copy(relative, source, progress)
                continue
            old = self.entries[spare[source].pop()]
            target = tree._target(relative)
            os.rename(self._target(old.path), target)
            tree.entries[relative] = FileEntry(relative, old.size, old.sha256)
        tree._write()
        shutil.rmtree(self.root)
        return tree

    def describe(self, model: str, number: int, describe: Describe) -> Manifest:
        """Writes the manifest and makes the whole tree durable."""
        files = tuple(sorted(self.entries.values(), key=lambda e: e.path))
        manifest = describe(number, files)
        path = self.root / "manifest.json"
        text = manifest.to_text()
        manifest = Manifest.from_text(text, where=str(path))
        if (manifest.model, manifest.release) != (model, number):
            raise StoreError(
                f"is for release {manifest.release} of {manifest.model}, not for {number} of {model}",
                where=str(path),
            )
        if manifest.files != files:
            names = sorted({e.path for e in set(manifest.files) ^ set(files)})
            raise StoreError(
                f"what arrived in the store is not what the manifest says: {', '.join(names[:5])}",
                where=str(path),
                fix="verify the store that it is copied from with `enginepress verify`",
            )
        path.write_text(text, encoding="utf-8")
        _make_read_only(path)
        (self.root / "records").mkdir()
        sync_tree(self.root)
        return manifest

    def _target(self, relative: str) -> Path:
        target = self.root / "repository" / check_relative(relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _copy(self, relative: str, source: Path, progress: Progress | None) -> None:
        target = self._target(relative)
        size, sha256 = copy_hashed(source, target, progress=progress)
        _make_read_only(target)
        self.entries[relative] = FileEntry(relative, size, sha256)

    def _write(self) -> None:
        for relative, content in sorted(self.placement.written.items()):
            target = self._target(relative)
            with open(target, "xb") as stream:
                stream.write(content)
            _make_read_only(target)
            self.entries[relative] = FileEntry(relative, len(content), sha256_hex(content))


def _make_read_only(path: Path) -> None:
    """Against accidents only; some file systems have no such thing."""
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


# The folder for it ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _own_partial(folder: ModelFolder) -> Iterator[Path]:
    """An empty folder that is ours alone, and is removed at the end. Dead publishers' folders are removed first."""
    folder.check_real(folder.partial)
    name = uuid.uuid4().hex
    owner = folder.partial / f"{name}.owner"
    scratch = folder.partial / name
    # The lock is there before the folder and goes after it: a folder without a lock belongs to nobody.
    with Lock(owner, about=f"publishing {folder.model}"):
        _sweep(folder.partial, now=owner.stat().st_mtime, but=name)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _sweep(partial: Path, *, now: float, but: str) -> None:
    names = set(os.listdir(partial))
    for name in sorted({n.removesuffix(".owner") for n in names if not n.startswith(".")} - {but}):
        owner = partial / f"{name}.owner"
        try:
            with Lock(owner, about="removing what a killed publisher left", wait=False):
                shutil.rmtree(partial / name, ignore_errors=True)
        except LockedError:
            if _beat_is_old(owner, now):
                shutil.rmtree(partial / name, ignore_errors=True)
                owner.unlink(missing_ok=True)
    for name in names:
        # A lock's own temporary files, if its holder was killed between two system calls.
        if name.startswith(".") and (left_by_the_dead(partial / name) or _beat_is_old(partial / name, now)):
            with contextlib.suppress(OSError):
                (partial / name).unlink()


def _beat_is_old(path: Path, now: float) -> bool:
    """Both times come from the file system, so that no two clocks are compared."""
    try:
        return now - path.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False
