"""`S3Store`: what every store can do, on an S3-compatible server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

from enginepress.errors import StoreError
from enginepress.json_text import json_value
from enginepress.manifest import Manifest
from enginepress.names import CHANNEL_NAME, name_trouble
from enginepress.pieces import Pieces
from enginepress.s3_access import S3Settings
from enginepress.stores.history import Move
from enginepress.stores.layout import check_channel
from enginepress.stores.s3 import channels, publishing, removing, upkeep
from enginepress.stores.s3.client import Missing, StoreClient, Stored
from enginepress.stores.s3.layout import REPOSITORY, ModelKeys, is_repository_name, number_of
from enginepress.stores.s3.probe import Guarantees, check_writable, guarantees_of
from enginepress.stores.s3.publishers import Publisher
from enginepress.stores.s3.reading import fetch_files, sha256_of_object
from enginepress.stores.store import Allotment, Describe, Difference, PlaceAs, PlaceAt, Progress, Store

AT_ONCE = 8
_WRITTEN = "written"
"""Metadata of a record: when it was written, in nanoseconds, since S3 tells only seconds."""


@dataclass(frozen=True)
class S3StoreSettings:
    """How one store is spoken to; see `stores` in the recipe."""

    server: S3Settings = field(default_factory=S3Settings)
    checksum: Literal["auto", "payload", "md5", "sha256", "crc32", "none"] = "auto"
    single_writer: bool = False
    paranoid: bool = False


class S3Store(Store):
    """One store.

    Args:
        bucket, prefix: where it lies; the prefix without slashes around it, "" for the whole bucket.
        url: as in the recipe, for messages and records.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        settings: S3StoreSettings = S3StoreSettings(),
        url: str | None = None,
        client: StoreClient | None = None,
    ) -> None:
        super().__init__(url or f"s3://{bucket}/{prefix}".rstrip("/"), server=settings.server.address())
        self.settings = settings
        self._client = client or StoreClient(bucket, settings.server)
        self._prefix = f"{prefix}/" if prefix else ""

    def _keys(self, model: str) -> ModelKeys:
        return ModelKeys.of(self._prefix, model)

    @cached_property
    def guarantees(self) -> Guarantees:
        """What the server guarantees: asked before the first write, and then kept in the store."""
        return guarantees_of(self._client, self._prefix, self.settings.checksum)

    # Releases ---------------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        names = [name for name in self._client.folders(self._prefix) if not name.startswith(".")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            there = list(pool.map(lambda name: self._is_there(f"{self._prefix}{name}/model.json"), names))
        return [name for name, found in zip(names, there, strict=True) if found]

    def _is_there(self, key: str) -> bool:
        try:
            self._client.head(key)
        except Missing:
            return False
        return True

    def numbers(self, model: str) -> list[int]:
        keys = self._keys(model)
        listed = self._client.listing(keys.manifests)
        return sorted(n for s in listed if s.size and (n := number_of(s.key)) is not None)

    def manifest(self, model: str, number: int) -> Manifest:
        return self._read(model, number)[0]

    def _read(self, model: str, number: int) -> tuple[Manifest, str]:
        """The manifest, and the name of its repository."""
        keys = self._keys(model)
        key = keys.manifest(number)
        where = self._client.where(key)
        try:
            text, stored = self._client.get(key)
        except Missing:
            text = b""
        if not text:
            known = ", ".join(map(str, self.numbers(model))) or "none"
            raise StoreError(f"has no release {number} of {model}", where=self.url, fix=f"there are: {known}")
        manifest = Manifest.from_text(text, where=where)
        if (manifest.model, manifest.release) != (model, number):
            raise StoreError(
                f"is the manifest of release {manifest.release} of {manifest.model}; it was moved or copied here",
                where=where,
                fix="move it back to its own number and model",
            )
        return manifest, stored.metadata.get(REPOSITORY) or self._only_repository(keys, number)

    def _only_repository(self, keys: ModelKeys, number: int) -> str:
        """Where a copy of the store lost the metadata: the one repository that is made for this number."""
        there = self._client.folders(keys.repository(f"{number}-")[:-1])
        names = [f"{number}-{rest}" for rest in there if is_repository_name(f"{number}-{rest}")]
        if len(names) != 1:
            raise StoreError(
                f"does not say which repository is its own (metadata `{REPOSITORY}`): {', '.join(names) or 'there is none'}",
                where=self._client.where(keys.manifest(number)),
                fix="copy the store with a tool that keeps metadata",
            )
        return names[0]

    def _manifest_text(self, model: str, number: int) -> bytes | None:
        try:
            return self._client.get(self._keys(model).manifest(number))[0] or None
        except Missing:
            return None

    def location(self, model: str, number: int) -> str:
        keys = self._keys(model)
        return self._client.where(keys.repository(self._read(model, number)[1]).rstrip("/"))

    def find(self, model: str, build_key: str) -> Manifest | None:
        return self._hinted(model, self._keys(model).builds(build_key), "build_key", build_key)

    def find_content(self, model: str, content_digest: str) -> Manifest | None:
        return self._hinted(model, self._keys(model).contents(content_digest), "content_digest", content_digest)

    def _hinted(self, model: str, folder: str, name: str, value: str) -> Manifest | None:
        """The newest release among those that a hint names. A hint whose release was never committed leads nowhere."""
        hints = [s.key.removeprefix(folder) for s in self._client.listing(folder)]
        for number in sorted((int(hint) for hint in hints if hint.isdigit()), reverse=True):
            if self._manifest_text(model, number) is not None:
                manifest = self.manifest(model, number)
                if getattr(manifest, name) == value:
                    return manifest
        return None

    def fetch(self, model: str, number: int, target: Path, *, progress: Progress | None = None) -> Manifest:
        manifest, name = self._read(model, number)
        fetch_files(self._client, self._keys(model).repository(name), manifest, target, progress=progress)
        return manifest

    def _site(self, model: str) -> publishing.Site:
        return publishing.Site(
            self._client,
            self._keys(model),
            self.guarantees,
            self.url,
            single_writer=self.settings.single_writer,
            paranoid=self.settings.paranoid,
        )

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
            self._site(model),
            place=place,
            describe=describe,
            number=number,
            primary=primary,
            expected=expected,
            pieces=pieces,
            progress=progress,
        )

    def check_publishable(self, model: str, *, allots: bool) -> None:
        """As `Store.check_publishable`: bucket, credentials, what the server guarantees, and who gives the numbers."""
        publishing.check_publishable(self._site(model), allots=allots)
        check_writable(self._client, self._prefix)

    def promises(self) -> list[str]:
        """As `Store.promises`: what the server was seen to guarantee."""
        return list(self.guarantees.in_words().values())

    def check_removable(self) -> None:
        """As `Store.check_removable`: what the server guarantees."""
        publishing.check_single_writer(self._site("any"))

    def verify(self, model: str, number: int, *, contents: bool = True, progress: Progress | None = None) -> list[Difference]:
        """As `Store.verify`. Without contents, ETags are compared with those of the day when it was published, too."""
        manifest, name = self._read(model, number)
        keys = self._keys(model)
        folder = keys.repository(name)
        there = {s.key.removeprefix(folder): s for s in self._client.listing(folder)}
        etags = publishing.read_etags(self._client, keys, name)
        found: list[Difference] = []
        to_read: list[Stored] = []
        for entry in manifest.files:
            stored = there.get(entry.path)
            if stored is None:
                found.append(Difference(entry.path, "missing"))
            elif stored.size != entry.size or (not contents and etags.get(entry.path, stored.etag) != stored.etag):
                found.append(Difference(entry.path, "changed"))
            else:
                to_read.append(stored)
        sizes = {entry.path: entry for entry in manifest.files}
        if contents:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                hashes = pool.map(lambda s: sha256_of_object(self._client, s.key, s.size), to_read)
                for stored, sha256 in zip(to_read, hashes, strict=True):
                    path = stored.key.removeprefix(folder)
                    if sha256 != sizes[path].sha256:
                        found.append(Difference(path, "missing" if sha256 is None else "changed"))
                    if progress is not None:
                        progress(stored.size)
        found += [Difference(path, "foreign") for path in there.keys() - sizes.keys()]
        return sorted(found, key=lambda d: d.path)

    def lost(self, model: str, number: int) -> list[Difference]:
        """As `Store.lost`. ETags are not compared: a server to which the store was copied may give others."""
        manifest, name = self._read(model, number)
        folder = self._keys(model).repository(name)
        sizes = {s.key.removeprefix(folder): s.size for s in self._client.listing(folder)}
        wrong = (entry for entry in manifest.files if sizes.get(entry.path) != entry.size)
        return [Difference(e.path, "changed" if e.path in sizes else "missing") for e in wrong]

    def remove(self, model: str, number: int) -> None:
        manifest, name = self._read(model, number)

        def pointing() -> list[str]:
            return sorted(channel for channel, n in self.channels(model).items() if n == number)

        doomed = removing.Doomed(manifest, name, self.manifest_bytes(model, number), pointing, lambda: self.sweep(model))
        removing.remove(self._site(model), doomed)

    def allotment(self, model: str) -> Allotment:
        return upkeep.allotment(self._client, self._keys(model))

    def allot(self, model: str, allotment: Allotment) -> None:
        upkeep.allot(self._site(model), allotment)

    def strays(self, model: str | None = None) -> list[str]:
        """As `Store.strays`. Repositories of releases that cannot be read are taken for strays, too."""
        if model is None:
            return upkeep.store_strays(self._client, self._prefix, self.models())
        return upkeep.model_strays(self._client, self._keys(model), set(self._repositories(model)))

    def _repositories(self, model: str) -> Iterator[str]:
        for number in self.numbers(model):
            try:
                yield self._read(model, number)[1]
            except StoreError:
                continue

    def sweep(self, model: str) -> None:
        """As `Store.sweep`. What a dead publisher has sent for a number that is still free is left to the next publisher."""
        keys = self._keys(model)
        if publishing.description(self._client, keys) is None:
            return
        taken = {n: s.size for s in self._client.listing(keys.manifests) if (n := number_of(s.key)) is not None}
        Publisher(self._client, keys, self.guarantees).sweep(max([0, *taken]))
        removing.remove_orphaned_records(self._client, keys, {n for n, size in taken.items() if not size})

    # Records ----------------------------------------------------------------------------------------------------------

    def write_record(self, model: str, number: int, name: str, value: Mapping[str, Any]) -> None:
        keys = self._keys(model)
        key = keys.record(number, name)
        if self._manifest_text(model, number) is None:
            raise StoreError(f"has no release {number} of {model}", where=self.url)
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        self._client.put(key, text.encode(), metadata={_WRITTEN: str(time.time_ns())})

    def read_record(self, model: str, number: int, name: str) -> dict[str, Any] | None:
        found = self._record(self._keys(model).record(number, name))
        return found[0] if found is not None else None

    def _record(self, key: str) -> tuple[dict[str, Any], tuple[Any, ...]] | None:
        """A record, and what it is sorted by."""
        try:
            text, stored = self._client.get(key)
        except Missing:
            return None
        problem = "not a JSON object"
        try:
            data = json_value(text)
        except ValueError as error:
            data, problem = None, f"not JSON ({error})"
        if not isinstance(data, dict):
            fix = "remove this object; the next run writes it anew"
            raise StoreError(f"is damaged: {problem}", where=self._client.where(key), fix=fix)
        written = stored.metadata.get(_WRITTEN, "")
        return data, (stored.modified, int(written) if written.isdigit() else 0, key)

    def record_names(self, model: str, number: int) -> list[str]:
        folder = self._keys(model).records(number)
        names = (s.key.removeprefix(folder) for s in self._client.listing(folder))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def records(self, model: str, number: int) -> dict[str, dict[str, Any]]:
        folder = self._keys(model).records(number)
        listed = [s.key for s in self._client.listing(folder) if s.key.endswith(".json")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = [
                (key, record) for key, record in zip(listed, pool.map(self._record, listed), strict=True) if record is not None
            ]
        found.sort(key=lambda pair: pair[1][1])
        return {key.removeprefix(folder).removesuffix(".json"): data for key, (data, _) in found}

    # Channels ---------------------------------------------------------------------------------------------------------

    def channel(self, model: str, name: str) -> int | None:
        keys = self._keys(model)
        number = channels.read(self._client, keys, name).release
        if number is not None and not removing.is_release(self._client, keys, number):
            raise StoreError(
                f"points to release {number}, which is not in the store",
                where=self._client.where(keys.channel(name)),
                fix=f"point the channel to a release that is there: `enginepress promote TARGET N --channel {name}`",
            )
        return number

    def channels(self, model: str) -> dict[str, int]:
        keys = self._keys(model)
        names = self.channel_names(model)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda name: channels.read(self._client, keys, name).release, names))
        return {name: number for name, number in zip(names, found, strict=True) if number is not None}

    def channel_names(self, model: str) -> list[str]:
        folder = self._keys(model).channels
        names = (s.key.removeprefix(folder) for s in self._client.listing(folder) if s.key.endswith(".json"))
        return sorted(name for key in names if not name_trouble(name := key.removesuffix(".json"), CHANNEL_NAME))

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
    ) -> None:
        """As `Store.activate`, by one conditional put. Readers pull, so `place` is not called."""
        if different := self.verify(model, number, contents=False):
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            raise StoreError(
                f"release {number} of {model} is damaged ({different[0]}{more}), so no channel is pointed to it",
                where=self.location(model, number),
                fix="promote another release, or restore this one's files from another store or a backup",
            )
        site, name = self._site(model), self._read(model, number)[1]
        channels.move(
            site.client,
            site.keys,
            site.guarantees,
            channel,
            number,
            url=self.url,
            single_writer=self.settings.single_writer,
            expect=expect,
            who=who,
            why=why,
            back=back,
            check=lambda: removing.check_movable(site, number, name),
        )

    def restore_channel(self, model: str, channel: str, moves: Sequence[Move], place: PlaceAt) -> None:
        """As `Store.restore_channel`. Readers pull, so `place` is not called."""
        self.manifest(model, moves[-1].release)
        publishing.check_single_writer(self._site(model))
        channels.restore(self._client, self._keys(model), self.guarantees, check_channel(channel), moves)

    def history(self, model: str, channel: str) -> list[Move]:
        return channels.history(self._client, self._keys(model), channel)
