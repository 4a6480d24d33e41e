"""A folder on a reader's own disk that holds a release as a server reads it, and changes to another one in one rename.

    current -> activations/7-1c9f03ab-5e0a91d2    what a server names as its model repository
    activations/7-1c9f03ab-5e0a91d2/…             release 7 placed for this folder: fresh configs, links to its files
    releases/7-1c9f03ab/manifest.json             a fetched release, verified; its name has the manifest's digest
    releases/7-1c9f03ab/verified.json             how its files looked then (enginepress.stores.vouching)
    releases/7-1c9f03ab/repository/…
    partial/8-77aa01de/…                          being fetched, or killed while it was
    .lock                                         one process fills a folder at a time

Files that two releases share are there once: before a release is fetched, what an earlier one has of it is linked, and the
fetch hashes it and keeps it. Whatever is killed when, `current` leads to a whole release, or is not there yet.
What is not `current` any more stays for a grace period, because a server may still be reading it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import EnginepressError, StoreError
from enginepress.files import commit_folder, contained_path, newest_ns, remove_tree, sync_folder, sync_tree, write_atomic
from enginepress.locks import Lock
from enginepress.manifest import Manifest
from enginepress.quantities import size_text
from enginepress.repository import Placement
from enginepress.stores.fetching import PARTIAL
from enginepress.stores.layout import store_errors
from enginepress.stores.store import Progress
from enginepress.stores.vouching import is_whole, vouch

PlaceFolder = Callable[[Path, int, str], Placement]
"""A fetched release's repository, its number, and the path at which readers will see it placed."""

Fetch = Callable[[Path, Progress], Manifest]
"""Fills a folder with a release's repository, going on with what is there."""

_NAME = re.compile(r"([1-9][0-9]{0,8})-([0-9a-f]{16})")
_ACTIVATION = re.compile(r"([1-9][0-9]{0,8}-[0-9a-f]{16})-([0-9a-f]{8})")
_STEP_NS = 1_000_000_000
RESERVE_BYTES = 64 * 1024 * 1024
"""Left free on the disk beside a release, for its placed configs and what a server writes there."""


@dataclass(frozen=True)
class Pulled:
    """What `current` leads to.

    Attributes:
        name: `<number>-<beginning of the manifest's digest>`.
        folder: the activation, which readers see as `current`.
    """

    name: str
    release: int
    folder: Path


class PulledFolder:
    """One reader's folder.

    Args:
        folder: made if it is not there.
        root: the path at which readers see it, if not the same.
        place: how a release is placed for its readers.
        grace_s: how long what is not current any more stays.
        keep: releases that stay, even after that, for a quick way back; what they share with others costs nothing.
    """

    def __init__(
        self, folder: Path, *, place: PlaceFolder, root: str | None = None, grace_s: float = 600.0, keep: int = 1
    ) -> None:
        self.folder = folder.absolute()
        self.root = (root or str(self.folder)).rstrip("/")
        self.current_link = self.folder / "current"
        self._place = place
        self._grace_s = grace_s
        self._keep = keep

    # What is there ----------------------------------------------------------------------------------------------------

    def current(self) -> Pulled | None:
        """What readers see; None if nothing was ever pulled here, or what is there was damaged from outside."""
        try:
            target = os.readlink(self.current_link)
        except OSError:
            return None
        match = _ACTIVATION.fullmatch(os.path.basename(target))
        folder = self.folder / "activations" / os.path.basename(target)
        if match is None or not folder.is_dir():
            return None
        return Pulled(match[1], int(match[1].partition("-")[0]), folder)

    def manifest(self, pulled: Pulled) -> Manifest:
        """The manifest of what was pulled. Raises StoreError if it is gone or damaged."""
        path = self.folder / "releases" / pulled.name / "manifest.json"
        with store_errors("reading a pulled release", where=path):
            return Manifest.from_text(path.read_bytes(), where=str(path))

    def manifests(self) -> list[Manifest]:
        """Of every release that lies here, damaged ones left out."""
        found = []
        for release in self._releases():
            with contextlib.suppress(StoreError, OSError):
                path = release / "manifest.json"
                found.append(Manifest.from_text(path.read_bytes(), where=str(path)))
        return found

    # Pull -------------------------------------------------------------------------------------------------------------

    def pull(
        self,
        manifest: Manifest,
        fetch: Fetch,
        *,
        progress: Progress | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Pulled:
        """Makes `current` lead to this release. Nothing is done if it does.

        Raises:
            StoreError: disk full, not writable, bytes that are not those of the manifest. `current` stays as it was.
        """
        name = _name(manifest)
        with store_errors("pulling a release", where=self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with Lock(self.folder / ".lock", about=f"pulling into {self.folder}", on_wait=on_wait):
                self._check_link()
                now = self.current()
                if now is None or now.name != name or not self._is_placed_for_us(now):
                    release = self._release(name, manifest, fetch, progress)
                    now = self._switch(name, manifest.release, release)
                with contextlib.suppress(OSError):
                    self._clean()
                return now

    def _check_link(self) -> None:
        if os.path.lexists(self.current_link) and not self.current_link.is_symlink():
            fix = "move it away, or name another folder with --to"
            raise StoreError("stands where a link to the release belongs", where=str(self.current_link), fix=fix)

    def _is_placed_for_us(self, pulled: Pulled) -> bool:
        """Whether its paths start where readers see it now, its release is whole, as far as files were touched, and shown."""
        with contextlib.suppress(OSError, EnginepressError):
            manifest = self.manifest(pulled)
            root = (pulled.folder.parent / f".{pulled.folder.name}.root").read_text()
            repository = self.folder / "releases" / pulled.name / "repository"
            return root == self.root and is_whole(repository, manifest.files) and self._shows(pulled, repository)
        return False

    def _shows(self, pulled: Pulled, repository: Path) -> bool:
        """Whether readers see the release's very files, and configs as they were written: an editor puts another file in the
        place of a link. What a server writes beside them is its own."""
        placement = self._place(repository, pulled.release, self._seen_at(pulled.folder))
        linked = all(os.path.samefile(pulled.folder / relative, source) for relative, source in placement.linked.items())
        return linked and all((pulled.folder / path).read_bytes() == content for path, content in placement.written.items())

    def _seen_at(self, activation: Path) -> str:
        return f"{self.root}/activations/{activation.name}"

    # The release ------------------------------------------------------------------------------------------------------

    def _release(self, name: str, manifest: Manifest, fetch: Fetch, progress: Progress | None) -> Path:
        """The fetched release's repository; fetched now, if it is not there."""
        target = self.folder / "releases" / name
        partial = self.folder / "partial" / name
        if target.is_dir():
            if is_whole(target / "repository", manifest.files):
                _remove_foreign(target / "repository", manifest)
                _write_if_other(target / "manifest.json", manifest.to_text())
                return target / "repository"
            # Somebody changed it. What is still whole is kept, what is not is fetched again.
            partial.parent.mkdir(exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            os.rename(target, partial)
        repository = partial / "repository"
        repository.mkdir(parents=True, exist_ok=True)
        _remove_foreign(repository, manifest)
        self._link_known(manifest, repository)
        self._check_space(manifest, repository, fetching=name)
        fetched = fetch(repository, progress or (lambda _count: None))
        if fetched.digest != manifest.digest:
            raise StoreError(
                f"release {manifest.release} of {manifest.model} was replaced by another one while it was fetched",
                where=str(repository),
                fix="pull again",
            )
        vouch(repository, manifest.files)
        write_atomic(partial / "manifest.json", manifest.to_text())
        sync_tree(partial)
        commit_folder(partial, target)
        return target / "repository"

    def _link_known(self, manifest: Manifest, repository: Path) -> None:
        """Files that another fetched release has are linked; the fetch hashes them, and keeps those that are whole."""
        known: dict[str, Path] = {}
        for other in self.manifests():
            for entry in other.files:
                known[entry.sha256] = self.folder / "releases" / _name(other) / "repository" / entry.path
        for entry in manifest.files:
            source, path = known.get(entry.sha256), contained_path(repository, entry.path)
            if source is None or os.path.lexists(path):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.link(source, path)

    def _check_space(self, manifest: Manifest, repository: Path, *, fetching: str) -> None:
        needed = RESERVE_BYTES
        for entry in manifest.files:
            with contextlib.suppress(OSError):
                needed -= min(entry.size, (repository / entry.path).stat().st_size)
            needed += entry.size
        needed -= sum(path.stat().st_size for path in (repository / PARTIAL).glob("*"))
        if needed > self._free():
            # Releases kept for a quick way back go before a pull fails, and so do other unfinished ones.
            self._clean(keep=0, fetching=fetching)
        if needed > (free := self._free()):
            raise StoreError(
                f"release {manifest.release} of {manifest.model} takes {size_text(needed)} more than is there already, "
                f"and {size_text(free)} are free",
                where=str(self.folder),
                fix="make the volume larger: it holds two releases while one follows the other, but for what they share",
            )

    def _free(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def _releases(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(p for p in (self.folder / "releases").iterdir() if _NAME.fullmatch(p.name))
        return []

    # The switch -------------------------------------------------------------------------------------------------------

    def _switch(self, name: str, number: int, release: Path) -> Pulled:
        activation = self.folder / "activations" / f"{name}-{uuid.uuid4().hex[:8]}"
        placement = self._place(release, number, self._seen_at(activation))
        stamp = time.time_ns()
        before = self.current()
        if before is not None:
            # Triton takes only what is newer than it remembers, and a clock may have gone back.
            stamp = max(stamp, newest_ns(before.folder) + _STEP_NS)
        for relative, source in placement.linked.items():
            path = contained_path(activation, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:
                path.symlink_to(os.path.relpath(source, path.parent))
        for relative, content in placement.written.items():
            path = contained_path(activation, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(stamp, stamp))
        sync_tree(activation)
        write_atomic(activation.parent / f".{activation.name}.root", self.root)
        fresh = self.folder / f".current-{uuid.uuid4().hex[:8]}"
        os.symlink(f"activations/{activation.name}", fresh)
        os.replace(fresh, self.current_link)
        sync_folder(self.folder)
        if before is not None:
            with contextlib.suppress(OSError):
                os.utime(before.folder)  # its grace begins now
        return Pulled(name, number, activation)

    # What may go ------------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Removes what nobody reads any more: call it now and then between pulls."""
        if self.folder.is_dir():
            with (
                store_errors("cleaning", where=self.folder),
                Lock(self.folder / ".lock", about=f"cleaning {self.folder}"),
                contextlib.suppress(OSError),
            ):
                self._clean()

    def _clean(self, *, keep: int | None = None, fetching: str | None = None) -> None:
        now = self.current()
        wanted = {now.name} if now is not None else set()
        for path in self._leftovers(fetching):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        activations = self.folder / "activations"
        for path in sorted(activations.iterdir()) if activations.is_dir() else ():
            match = _ACTIVATION.fullmatch(path.name)
            if match is None or (now is not None and path == now.folder):
                continue
            if time.time() - path.stat().st_mtime > self._grace_s:
                remove_tree(path)
                (activations / f".{path.name}.root").unlink(missing_ok=True)
            else:
                wanted.add(match[1])
        others = [path for path in self._releases() if path.name not in wanted]
        others.sort(key=lambda path: path.stat().st_mtime)
        count = self._keep if keep is None else keep
        for path in others[: max(0, len(others) - count)]:
            remove_tree(path)

    def _leftovers(self, fetching: str | None) -> Iterator[Path]:
        """What killed pulls and removals left. A partial fetch stays for a while, for its release may be wanted again."""
        for base in (self.folder, self.folder / "activations", self.folder / "releases"):
            for path in sorted(base.iterdir()) if base.is_dir() else ():
                old = path.name.startswith((".removed-", ".current-"))
                orphan = path.name.endswith(".root") and not (base / path.name[1:-5]).is_dir()
                if old or (base.name == "activations" and orphan):
                    yield path
        partial = self.folder / "partial"
        done = {path.name for path in self._releases()}
        for path in sorted(partial.iterdir()) if partial.is_dir() else ():
            old = fetching is not None or time.time() - path.stat().st_mtime > max(self._grace_s, 3600.0)
            if path.name != fetching and (path.name in done or old):
                yield path


def _name(manifest: Manifest) -> str:
    return f"{manifest.release}-{manifest.digest[:16]}"


def _write_if_other(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def _remove_foreign(repository: Path, manifest: Manifest) -> None:
    """What is not of the release: such files, and folders without any that is. What is being fetched stays."""
    known = {entry.path for entry in manifest.files}
    for base, folders, names in os.walk(repository, topdown=False):
        for name in names:
            relative = Path(base, name).relative_to(repository).as_posix()
            if relative not in known and not relative.startswith(f"{PARTIAL}/"):
                Path(base, name).unlink()
        for name in folders:
            with contextlib.suppress(OSError):
                Path(base, name).rmdir()
