"""Publishing: a release is written apart, hashed while it is copied, synced, and renamed into place whole.

Files that an earlier release has already are linked (enginepress.stores.unchanged).

    .partial/<id>.owner     a lock held by the publisher, so that others know whether it lives
    .partial/<id>/<n>/…     the release under the number that it hopes to get

The number is decided by the rename: `releases/<n>` cannot be taken twice. Who comes second places the repository again
under the next number, and its heavy files move there by rename; nothing is copied twice.
What a killed publisher left in `.partial/` is removed by the next one. A publisher on another machine counts as dead when
its lock has been without a heartbeat for `ABANDONED_SECONDS` on the clock of the file system itself. The next publish also
finishes removals (`releases/.removed-…`) and forgets the locks of the dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from enginepress.canonical import sha256_hex
from enginepress.errors import EnginepressError, LockedError, StoreError
from enginepress.files import FileEntry, check_relative, check_writable, commit_folder, make_folders
from enginepress.locks import Lock, left_by_the_dead
from enginepress.manifest import Manifest
from enginepress.repository import Placement
from enginepress.stores import layout
from enginepress.stores.channels import Activation, current, names
from enginepress.stores.copying import Copy, copy_all, make_read_only, sync_all
from enginepress.stores.index import write_index
from enginepress.stores.layout import REMOVED, ModelFolder, is_older, store_errors
from enginepress.stores.store import Describe, PlaceAs, Progress
from enginepress.stores.unchanged import Unchanged, newest_first


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
        make_folders(folder.releases)
        folder.describe(primary=primary)
        with _own_partial(folder) as scratch:
            wanted = number or folder.next_number()
            tree = _Tree(scratch / str(wanted), place(wanted))
            tree.fill(folder, expected or {}, progress)
            while True:
                manifest = tree.describe(folder.model, wanted, describe)
                if (number or not _was_given(folder, wanted)) and commit_folder(tree.root, folder.release(wanted)):
                    break
                if number is not None:
                    raise _taken(folder, number)
                wanted = folder.next_number()
                tree = tree.renumbered(scratch / str(wanted), place(wanted), progress)
            # From here on the release is published. Should this fail, the next publish does it.
            with contextlib.suppress(OSError, EnginepressError):
                folder.describe(published=wanted)
                with folder.lock("index", about=f"publishing {folder.model}"):
                    write_index(folder, folder.numbers(), manifest)
    return manifest


def check_publishable(folder: ModelFolder, *, allots: bool) -> None:
    """As `FileStore.check_publishable`."""
    if allots:
        _check_allots(folder)
    with store_errors("writing to the store", where=folder.path):
        for written in (folder.partial, folder.releases):
            folder.check_real(written)
            check_writable(written)


def _was_given(folder: ModelFolder, number: int) -> bool:
    """Whether a release had this number, though it may be gone: it came and was removed while ours was being copied."""
    return bool(folder.description()["last"] >= number)


def _check_turn(folder: ModelFolder, number: int | None) -> None:
    if number is None:
        _check_allots(folder)
    elif number in folder.numbers():
        raise _taken(folder, number)


def _check_allots(folder: ModelFolder) -> None:
    primary = folder.description()["primary"]
    if primary is not None:
        raise StoreError(
            f"follows the store {primary}, which allots the release numbers of {folder.model}",
            where=str(folder.path),
            fix="name that store first in the recipe; to make this one the primary, set `primary` to null in its model.json",
        )


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
        self._unsynced: set[str] = set()
        self._made: set[str] = set()
        self._repository = f"{root}/repository"
        self._searched: Unchanged | None = None

    def fill(self, folder: ModelFolder, expected: Mapping[Path, str], progress: Progress | None) -> None:
        """Links what the store has already, copies the rest."""
        wanted = sorted(self.placement.linked.items())
        left = [item for item in wanted if not self._link(folder, *item, expected, progress)] if expected else wanted
        self._copy(left, progress)
        for relative, source in left:
            digest = expected.get(source)
            if digest is not None and digest != self.entries[relative].sha256:
                raise StoreError(
                    f"was changed since it was checked: its sha256 is {self.entries[relative].sha256}, not {digest}",
                    where=str(source),
                    fix="run again with `--force`; if it happens again, check the disk",
                )
        self._write()

    def renumbered(self, root: Path, placement: Placement, progress: Progress | None) -> _Tree:
        """The same release under another number. What is there is moved; this tree is gone afterwards."""
        tree = _Tree(root, placement)
        spare: dict[Path, list[str]] = {}
        for relative, source in self.placement.linked.items():
            spare.setdefault(source, []).append(relative)
        more = []
        for relative, source in sorted(placement.linked.items()):
            if not spare.get(source):
                more.append((relative, source))
                continue
            old = self.entries[spare[source].pop()]
            os.rename(self._target(old.path), tree._target(relative))
            tree.entries[relative] = FileEntry(relative, old.size, old.sha256)
        tree._copy(more, progress)
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
            wrong = sorted({e.path for e in set(manifest.files) ^ set(files)})
            raise StoreError(
                f"what arrived in the store is not what the manifest says: {', '.join(wrong[:5])}",
                where=str(path),
                fix="verify the store that it is copied from with `enginepress verify STORE`",
            )
        _write_new(path, text.encode())
        (self.root / "records").mkdir()
        repository = self.root / "repository"
        folders = [Path(base) for base, _, _ in os.walk(self.root, topdown=False)]
        sync_all([path, *(repository / relative for relative in sorted(self._unsynced))], folders)
        self._unsynced.clear()
        return manifest

    def _target(self, relative: str) -> str:
        target = f"{self._repository}/{check_relative(relative)}"
        if (parent := os.path.dirname(target)) not in self._made:
            os.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        return target

    def _link(
        self, folder: ModelFolder, relative: str, source: Path, expected: Mapping[Path, str], progress: Progress | None
    ) -> bool:
        """Whether an earlier release has this file, and it could be linked."""
        digest = expected.get(source)
        unchanged = self._unchanged(folder)
        stored = unchanged.find(digest) if digest is not None else None
        if stored is None:
            return False
        fresh = unchanged.link(stored, source, self._target(relative))
        if fresh is None:
            return False
        if fresh:
            self._unsynced.add(relative)
        self.entries[relative] = FileEntry(relative, stored.size, stored.sha256)
        if progress is not None:
            progress(stored.size)
        return True

    def _unchanged(self, folder: ModelFolder) -> Unchanged:
        if self._searched is None:
            pointed = [found.release for name in names(folder) if (found := _current(folder, name)) is not None]
            self._searched = Unchanged(folder, newest_first(folder.numbers(), pointed))
        return self._searched

    def _copy(self, files: list[tuple[str, Path]], progress: Progress | None) -> None:
        copies = [Copy(relative, source, Path(self._target(relative))) for relative, source in files]
        for entry in copy_all(copies, progress):
            self.entries[entry.path] = entry
            self._unsynced.add(entry.path)

    def _write(self) -> None:
        for relative, content in sorted(self.placement.written.items()):
            _write_new(self._target(relative), content)
            self.entries[relative] = FileEntry(relative, len(content), sha256_hex(content))
            self._unsynced.add(relative)


def _current(folder: ModelFolder, channel: str) -> Activation | None:
    """Where a channel points; a damaged one does not keep a release from being published."""
    with contextlib.suppress(EnginepressError):
        return current(folder, channel)
    return None


def _write_new(path: Path | str, content: bytes) -> None:
    with open(path, "xb") as stream:
        stream.write(content)
        make_read_only(stream.fileno())


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
        sweep(folder, now=owner.stat().st_mtime, but=name)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def sweep_alone(folder: ModelFolder) -> None:
    """Removes what killed ones left, for who does not publish."""
    owner = folder.partial / f"{uuid.uuid4().hex}.owner"
    folder.check_real(folder.partial)
    with Lock(owner, about=f"tidying {folder.model}"):
        sweep(folder, now=owner.stat().st_mtime, but=owner.stem)


def sweep(folder: ModelFolder, *, now: float, but: str) -> None:
    """Removes what killed publishers, removers and holders of locks left.

    Args:
        now: by the clock of the file system.
        but: the publisher who is asking.
    """
    partial = folder.partial
    found = set(os.listdir(partial)) if partial.is_dir() else set()
    for name in sorted({n.removesuffix(".owner") for n in found if not n.startswith(".")} - {but}):
        owner = partial / f"{name}.owner"
        try:
            with Lock(owner, about="removing what a killed publisher left", wait=False):
                shutil.rmtree(partial / name, ignore_errors=True)
        except LockedError:
            if is_older(owner, than=now, by=layout.ABANDONED_SECONDS):
                shutil.rmtree(partial / name, ignore_errors=True)
                owner.unlink(missing_ok=True)
    for name in found:
        # A lock's own temporary files, if its holder was killed between two system calls.
        if not name.startswith("."):
            continue
        if left_by_the_dead(partial / name) or is_older(partial / name, than=now, by=layout.ABANDONED_SECONDS):
            with contextlib.suppress(OSError):
                (partial / name).unlink()
    for name in os.listdir(folder.releases):
        if name.startswith(REMOVED):
            shutil.rmtree(folder.releases / name, ignore_errors=True)
    folder.sweep_locks(now=now)
