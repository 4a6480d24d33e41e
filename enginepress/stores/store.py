"""What every store can do, whatever it lies on: a folder (`filesystem`) or an S3-compatible server.

A store knows models, release numbers, manifests, small records and channels. Releases are immutable and appear whole;
channels move with a history. Steps and commands know this class and nothing of what is behind it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

from enginepress.errors import StoreError
from enginepress.files import FileEntry
from enginepress.manifest import Manifest
from enginepress.pieces import Pieces
from enginepress.repository import Placement
from enginepress.stores.history import Move, came_before

PlaceAs = Callable[[int], Placement]
"""The repository as release N, without a reader's root."""

PlaceAt = Callable[[str], Placement]
"""A release for readers who see it at this absolute path."""

Describe = Callable[[int, tuple[FileEntry, ...]], Manifest]
Progress = Callable[[int], None]
"""Called with the number of bytes just moved, or found to be there already."""


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


@dataclass(frozen=True)
class Allotment:
    """Who gives a model's releases their numbers.

    Attributes:
        primary: URL of the store that does; None if it is this one.
        last: the highest number that was ever given, so that a removed release's is not given again; 0 if none was.
    """

    primary: str | None
    last: int


class Store(ABC):
    """One store.

    Attributes:
        url: as in the recipe, for messages and records.
        server: its address, where the URL alone does not say which store is meant: two servers may have the same bucket.
    """

    def __init__(self, url: str, *, server: str = "") -> None:
        self.url = url
        self.server = server.rstrip("/")

    # Releases ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def models(self) -> list[str]:
        """Every model that has been published here, sorted."""

    @abstractmethod
    def numbers(self, model: str) -> list[int]:
        """Release numbers, ascending. Cheap: reads no manifest."""

    @abstractmethod
    def manifest(self, model: str, number: int) -> Manifest:
        """Raises StoreError if there is no such release, or its manifest is damaged or that of another release."""

    @abstractmethod
    def _manifest_text(self, model: str, number: int) -> bytes | None:
        """The manifest as it is stored, unparsed; None if there is none under that number."""

    def manifest_bytes(self, model: str, number: int) -> bytes:
        """The manifest exactly as it is stored: what a signature is over. Raises StoreError if there is none."""
        text = self._manifest_text(model, number)
        if text is None:
            raise StoreError(f"has no release {number} of {model}", where=self.url)
        return text

    @abstractmethod
    def location(self, model: str, number: int) -> str:
        """Where the release's model repository lies, for people: a path or URL."""

    def repository(self, model: str, number: int) -> Path | None:
        """The release's model repository as a folder, where this machine sees the store as one; None where it is fetched.

        Raises:
            StoreError: if there is no such release.
        """
        return None

    @abstractmethod
    def fetch(self, model: str, number: int, target: Path, *, progress: Progress | None = None) -> Manifest:
        """Copies a release's model repository into the folder `target`, each byte checked against the manifest.

        A killed or failed fetch is resumed: files of the release that are whole in `target` are kept after they were hashed,
        wrong ones are removed, never written into, since they may be links, and fetched anew. While it works `target` holds a
        folder `.fetching` besides.

        Args:
            progress: told of bytes that were there already, too. What it raises ends the fetch.

        Raises:
            StoreError: no such release, bytes that are not those of the manifest, or a `target` with other files in it.
        """

    @abstractmethod
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
        """Adds a release: readers see all of it or nothing.

        Args:
            place: the repository under a number. Called again with a higher one if somebody else was faster.
            describe: the manifest for a number and the files as they were written, hashed while they were copied.
            number: take this one or refuse; None: the next free one. Stores that follow a primary one are given it.
            primary: URL of the store that allots the numbers, kept when the first release with a given number arrives.
            expected: sha256 that source files must have, where they were hashed before; a changed one is refused.
            pieces: of large files among them, hashed at the same time. A store that hashes for itself has no use for them.

        Raises:
            StoreError: number taken, store full or not writable, bytes that are not the expected ones.
        """

    @abstractmethod
    def check_publishable(self, model: str, *, allots: bool) -> None:
        """Looks for what would refuse every publish, so that it is told before hours of building.

        Args:
            allots: this store is to give the release its number.

        Raises:
            StoreError: saying what is in the way.
        """

    def free_bytes(self) -> int | None:
        """What can still be written; None where nobody can tell. Raises StoreError if the place cannot be looked at."""
        return None

    def promises(self) -> list[str]:
        """What holds here, for people, where stores of a kind differ in that. Raises StoreError if nobody can tell."""
        return []

    def check_removable(self) -> None:  # noqa: B027
        """Raises StoreError for what would refuse every removal."""

    @abstractmethod
    def verify(self, model: str, number: int, *, contents: bool = True, progress: Progress | None = None) -> list[Difference]:
        """Reads and hashes every file of a release and says where it is not what its manifest says.

        Args:
            contents: False compares names and sizes only, which takes no time.

        Raises:
            StoreError: if there is no such release, or its manifest is damaged.
        """

    def lost(self, model: str, number: int) -> list[Difference]:
        """Files of a release that are not there, or of another size: told by names and sizes, in no time. Raises as `verify`."""
        return [d for d in self.verify(model, number, contents=False) if d.problem != "foreign"]

    @abstractmethod
    def remove(self, model: str, number: int) -> None:
        """Takes a release out of the store. Readers see it whole until it is gone; its number is never given again.

        Whether it may go (channels, age, readers) is for `enginepress.steps.prune` to decide.

        Raises:
            StoreError: if a channel points to it, or there is no such release.
        """

    @abstractmethod
    def allotment(self, model: str) -> Allotment:
        """As if empty, where there is no such model. Raises StoreError if what says so is damaged."""

    @abstractmethod
    def allot(self, model: str, allotment: Allotment) -> None:
        """Says anew who gives the numbers. `last` only ever grows."""

    def strays(self, model: str | None = None) -> list[str]:
        """What lies in the store, or among what belongs to a model, and is nothing that a store keeps. Relative to it, sorted.

        Files of publishers at work, and what killed ones left, do not count. `verify` looks into the releases' repositories.
        """
        return []

    def freed(self, model: str, numbers: Iterable[int]) -> int:
        """Bytes that become free if these releases are removed: at least so many, where files are shared."""
        total = 0
        for number in numbers:
            with suppress(StoreError):  # gone meanwhile
                total += self.manifest(model, number).size
        return total

    def sweep(self, model: str) -> None:  # noqa: B027
        """Removes what killed publishers, movers and removers left, and nobody needs. Living ones are not disturbed."""

    def releases(self, model: str) -> list[Manifest]:
        """Every release, oldest first.

        Raises:
            StoreError: for a damaged one. `numbers` and `manifest` get at the others.
        """
        return [self.manifest(model, number) for number in self.numbers(model)]

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
        for number in reversed(self.numbers(model)):
            text = self._manifest_text(model, number)
            if text is not None and value.encode() in text:
                manifest = self.manifest(model, number)
                if getattr(manifest, field) == value:
                    return manifest
        return None

    # Records ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def write_record(self, model: str, number: int, name: str, value: Mapping[str, Any]) -> None:
        """Keeps a small JSON object beside a release. The last one of a name stays."""

    @abstractmethod
    def read_record(self, model: str, number: int, name: str) -> dict[str, Any] | None:
        """The record, or None. Raises StoreError for one that is damaged."""

    @abstractmethod
    def records(self, model: str, number: int) -> dict[str, dict[str, Any]]:
        """All records of a release by name, in the order in which they were last written."""

    def record_names(self, model: str, number: int) -> list[str]:
        """The names of a release's records, whether or not they can be read."""
        return list(self.records(model, number))

    # Channels ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def channel(self, model: str, name: str) -> int | None:
        """The release that a channel points to, or None if there is no such channel. Raises StoreError if it dangles."""

    @abstractmethod
    def channel_names(self, model: str) -> list[str]:
        """What stands where channels do and is called as one may be, sorted, whether or not it can be read."""

    @abstractmethod
    def channels(self, model: str) -> dict[str, int]:
        """Every channel and the release that it names. Does not look whether it dangles: `channel` does."""

    @abstractmethod
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
    ) -> Path | None:
        """Points a channel to a release, by one rename or one conditional write.

        Args:
            place: the release, placed for the path at which readers will see this activation; a store whose readers pull
                (S3) does not call it.
            expect: move it only if it is on this release now (None: on none).
            who, why: for the history.
            back: it is a rollback (`previous`).

        Returns:
            The folder that readers see now, in a store that is a folder.

        Raises:
            StoreError: no such release, not where it was expected, store full or not writable.
        """

    @abstractmethod
    def restore_channel(self, model: str, channel: str, moves: Sequence[Move], place: PlaceAt) -> None:
        """Makes a channel as it was elsewhere, on the release of its last move and with its whole history.

        Doing it again is doing nothing.

        Raises:
            StoreError: if there is such a channel with another last move; no such release; store full or not writable.
        """

    def channel_path(self, model: str, channel: str) -> Path | None:
        """What a server on this machine names as its model repository to follow the channel; None where readers pull."""
        return None

    @abstractmethod
    def history(self, model: str, channel: str) -> list[Move]:
        """Every move of a channel, oldest first."""

    def previous(self, model: str, channel: str, *, whole: bool = False) -> int:
        """The release to which a rollback goes.

        Args:
            whole: as `release_before` has it.

        Raises:
            StoreError: if there is none.
        """
        found = self.release_before(model, channel, whole=whole)
        if found is None:
            raise StoreError(
                f"channel {channel} of {model} is on release {self.channel(model, channel)} and there is no earlier release to go"
                " back to",
                where=self.url,
                fix="`enginepress releases TARGET` lists what is there; "
                f"`enginepress promote TARGET N --channel {channel}` points it to any of them",
            )
        return found

    def release_before(self, model: str, channel: str, *, whole: bool = False) -> int | None:
        """The release on which a channel was before, of those that are still in the store; None if there is none.

        Args:
            whole: pass over those that are damaged, too, as names and sizes tell.

        Raises:
            StoreError: no such channel, a damaged history, or the store cannot be read.
        """
        channels = self.channels(model)
        now = channels.get(channel)
        past = [(move.release, move.back) for move in self.history(model, channel)]
        if now is None:
            raise StoreError(
                f"has no channel {channel} of {model}", where=self.url, fix=f"there are: {', '.join(channels) or 'none'}"
            )
        there = set(self.numbers(model))
        return came_before([*past, (now, False)], lambda n: n in there and (not whole or self._is_whole(model, n)))

    def _is_whole(self, model: str, number: int) -> bool:
        try:
            return not self.verify(model, number, contents=False)
        except StoreError:
            return False


def damaged_file(where: str, wanted: str, found: str) -> StoreError:
    """The refusal of a file of a release whose bytes changed after it was published."""
    return StoreError(
        f"is not what was published: its sha256 is {found}, and the manifest says {wanted}",
        where=where,
        fix="restore the release from another store or a backup; `enginepress verify STORE` shows what else differs",
    )
