"""Publishing to S3: objects to a fresh repository, then one conditional put of the manifest, which allots the number.

Who comes second for a number gets the next one: its files are copied there within the server. A publisher that is killed
leaves a note and what it has sent; `enginepress.stores.s3.publishers` says who goes on with it or removes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.canonical import json_digest, sha256_hex
from enginepress.errors import StoreError
from enginepress.files import check_relative
from enginepress.json_text import json_value
from enginepress.manifest import Manifest
from enginepress.pieces import Pieces
from enginepress.repository import Placement
from enginepress.stores.s3.client import Missing, StoreClient, Stored, Unmet
from enginepress.stores.s3.digests import digest_parameters
from enginepress.stores.s3.items import Item, Sent, Twin, with_twins
from enginepress.stores.s3.layout import FORMAT, REPOSITORY, ModelKeys, number_of
from enginepress.stores.s3.probe import Guarantees
from enginepress.stores.s3.publishers import Publisher, forget_hints, read_hints
from enginepress.stores.s3.reading import sha256_of_object
from enginepress.stores.s3.sending import MIB, Sender, read_back
from enginepress.stores.store import Describe, PlaceAs, Progress

COPIED_FROM = MIB
"""Smaller files are sent again: a copy within the server costs a request, too."""

LOOKED_AT = 3
"""Newest releases in which unchanged files are looked for."""

_ATTEMPTS = 5


@dataclass(frozen=True)
class Site:
    """One model in one store, as publishing sees it.

    Attributes:
        url: of the store.
        single_writer: the recipe says that nobody else writes.
        paranoid: read every file back.
    """

    client: StoreClient
    keys: ModelKeys
    guarantees: Guarantees
    url: str
    single_writer: bool
    paranoid: bool


def publish(
    site: Site,
    *,
    place: PlaceAs,
    describe: Describe,
    number: int | None = None,
    primary: str | None = None,
    expected: Mapping[Path, str] | None = None,
    pieces: Mapping[Path, Pieces] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Publishes one release; see `Store.publish`."""
    check_single_writer(site)
    _check_turn(site, number, primary)
    taken = site.client.listing(site.keys.manifests)
    wanted = number or _after(taken)
    publisher = Publisher(site.client, site.keys, site.guarantees)
    placement = place(wanted)
    items = with_twins(_items(placement, expected or {}, pieces or {}), _twins(site, taken), least=COPIED_FROM)
    with publisher.at_work(wanted, _content(items)):
        try:
            sent = _send(site, publisher, items, progress)
            while True:
                manifest = _described(site, wanted, sent, describe)
                publisher.check()
                if publisher.resumed:  # the dead publisher may have been about to commit it under another build key
                    stale = read_hints(site.client, site.keys, publisher.name)
                    forget_hints(site.client, stale, manifest.to_text().encode())
                if _commit(site, publisher.name, manifest, sent):
                    break
                if number is not None:
                    raise _taken(site, number)
                wanted = next_number(site.client, site.keys)
                before, placed = publisher.renumber(wanted), place(wanted)
                sent = _send(site, publisher, _moved(site, before, sent, placement, placed), None)
                placement = placed
        except _Refused as refused:
            publisher.withdraw()
            raise refused.error from None
        # From here on the release is published. Should tidying up fail, the next publish does it.
        try:
            publisher.finish(wanted)
        except StoreError:
            pass
    return manifest


class _Refused(Exception):
    """What would be refused again: nothing of it is kept."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


# Before ---------------------------------------------------------------------------------------------------------------


def check_publishable(site: Site, *, allots: bool) -> None:
    """As `Store.check_publishable`."""
    check_single_writer(site)
    if allots:
        _check_allots(site, description(site.client, site.keys))


def check_single_writer(site: Site) -> None:
    """Refuses to publish where two publishers could get the same number, unless the recipe says that there is one.

    Raises:
        StoreError: saying what the server does not guarantee.
    """
    if site.guarantees.create != "atomic" and not site.single_writer:
        why = {
            "racy": "lets two conditional writes (If-None-Match: *) through when they come at the same time",
            "ignored": "overwrites an object that is there although it is asked not to (If-None-Match: *)",
        }[site.guarantees.create]
        raise StoreError(
            f"this server {why}, so two publishers could get the same release number",
            where=site.url,
            fix="if nobody else publishes to this store at the same time, say `single_writer: true` beside its url in the recipe"
            " (`enginepress backup`, `restore` and `prune`: --single-writer)",
        )


def next_number(client: StoreClient, keys: ModelKeys) -> int:
    """One more than any release that is here, or was."""
    return _after(client.listing(keys.manifests))


def _after(taken: Sequence[Stored]) -> int:
    return max((n for s in taken if (n := number_of(s.key)) is not None), default=0) + 1


def description(client: StoreClient, keys: ModelKeys) -> dict[str, Any] | None:
    """`model.json`, or None if the model was never published here.

    Raises:
        StoreError: if it is damaged, or of a layout that this version does not know.
    """
    try:
        text, _ = client.get(keys.description)
    except Missing:
        return None
    try:
        data = json_value(text)
        if data["model"] != keys.model or not isinstance(data["primary"], (str, type(None))):
            raise ValueError(f"it does not describe model '{keys.model}'")
        number = int(data["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"is damaged: {error}",
            where=client.where(keys.description),
            fix="remove this one object: the next publish makes it anew",
        ) from None
    if number != FORMAT:
        raise StoreError(
            f"the store has layout {number}, and this enginepress knows layout {FORMAT}",
            where=client.where(keys.description),
            fix="use the enginepress that wrote it, or a newer one",
        )
    return data  # type: ignore[no-any-return]


def _check_turn(site: Site, number: int | None, primary: str | None) -> None:
    """Makes `model.json` if there is none; refuses a number that is taken, or to allot one where another store does."""
    known = description(site.client, site.keys)
    if known is None:
        text = json.dumps({"format": FORMAT, "model": site.keys.model, "primary": primary}, indent=1, sort_keys=True) + "\n"
        try:
            site.client.put(site.keys.description, text.encode(), if_none_match=site.guarantees.create != "ignored")
        except Unmet:
            pass
        known = description(site.client, site.keys)
    if number is None:
        _check_allots(site, known)
        return
    try:
        there = site.client.head(site.keys.manifest(number))
    except Missing:
        return
    raise _taken(site, number) if there.size else _removed(site, number)


def _check_allots(site: Site, known: dict[str, Any] | None) -> None:
    if known is not None and known["primary"] is not None:
        raise StoreError(
            f"follows the store {known['primary']}, which allots the release numbers of {site.keys.model}",
            where=f"{site.url}/{site.keys.model}",
            fix="name that store first in the recipe; to make this one the primary, set `primary` to null in its model.json",
        )


def _taken(site: Site, number: int) -> StoreError:
    return StoreError(
        f"{site.keys.model} has, or had, another release {number} there already, so this one cannot get its number",
        where=site.client.where(site.keys.manifest(number)),
        fix="a store holds the releases of one primary store: name another store, or another folder in it",
    )


def _removed(site: Site, number: int) -> StoreError:
    return StoreError(
        f"release {number} of {site.keys.model} was removed there, and its number is not given again",
        where=site.client.where(site.keys.manifest(number)),
        fix="to have the same release there again, remove this one object, which is empty, and run again",
    )


# The files ------------------------------------------------------------------------------------------------------------


def _items(placement: Placement, expected: Mapping[Path, str], pieces: Mapping[Path, Pieces]) -> list[Item]:
    linked = [
        Item(check_relative(path), source, expected.get(source), pieces=pieces.get(source))
        for path, source in placement.linked.items()
    ]
    written = [Item(check_relative(path), content, sha256_hex(content)) for path, content in placement.written.items()]
    return sorted([*linked, *written], key=lambda item: item.path)


def _content(items: Sequence[Item]) -> str:
    """Names what is published, as far as it is known before it is read."""
    sizes = [len(i.source) if isinstance(i.source, bytes) else i.source.stat().st_size for i in items]
    return json_digest([[i.path, size, i.sha256] for i, size in zip(items, sizes, strict=True)])


def _twins(site: Site, manifests: Sequence[Stored]) -> dict[str, Twin]:
    """Objects of the newest releases by sha256. What cannot be read is passed over: it is only a saving."""
    if not site.guarantees.copies:
        return {}
    listed = sorted((n, s) for s in manifests if s.size and (n := number_of(s.key)))
    found: dict[str, Twin] = {}
    for _, stored in listed[-LOOKED_AT:]:
        try:
            text, manifest_object = site.client.get(stored.key)
            manifest = Manifest.from_text(text, where=site.client.where(stored.key))
            name = manifest_object.metadata[REPOSITORY]
            etags = read_etags(site.client, site.keys, name)
        except (StoreError, Missing, KeyError):
            continue
        folder = site.keys.repository(name)
        for entry in manifest.files:
            if entry.size >= COPIED_FROM and entry.path in etags:
                found[entry.sha256] = Twin(folder + entry.path, etags[entry.path], entry.size)
    return found


def read_etags(client: StoreClient, keys: ModelKeys, name: str) -> dict[str, str]:
    """What the server said of a repository's files when they were published; empty if that is not known any more."""
    try:
        data = json_value(client.get(keys.etags(name))[0])
        return {str(path): str(etag) for path, etag in data["etags"].items()}
    except (Missing, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _send(site: Site, publisher: Publisher, items: Sequence[Item], progress: Progress | None) -> list[Sent]:
    folder = site.keys.repository(publisher.name)
    present = {s.key: s for s in site.client.listing(folder)} if publisher.resumed else {}
    uploads = {u.key: u.id for u in site.client.uploads(folder)} if publisher.resumed else {}
    sender = Sender(site.client, site.guarantees, folder, present=present, uploads=uploads, progress=progress)
    sent = sorted(sender.send(items), key=lambda s: s.entry.path)
    there = {s.key.removeprefix(folder): s for s in site.client.listing(folder)}
    for at, file in enumerate(sent):
        stored = there.pop(file.entry.path, None)
        if stored is None or stored.size != file.entry.size or (file.etag and stored.etag != file.etag):
            raise StoreError(
                "is not what was sent" if stored is not None else "is not there although the server took it",
                where=site.client.where(folder + file.entry.path),
                fix="run again; if it happens again, the server loses or damages files",
            )
        sent[at] = Sent(file.entry, stored.etag, file.moved)
    if there:  # of a publisher before, which had something else to send
        site.client.delete_all([folder + path for path in there])
    if site.paranoid or site.guarantees.digest == "none":
        read_back(site.client, folder, sent, lambda key, entry: sha256_of_object(site.client, key, entry.size))
    return sent


def _moved(site: Site, before: str, sent: Sequence[Sent], old: Placement, new: Placement) -> list[Item]:
    """The files of the same repository under another number: what was sent is copied within the server."""
    folder = site.keys.repository(before)
    by_path = {s.entry.path: s for s in sent}
    old_paths: dict[Path, list[str]] = {}
    for path, source in old.linked.items():
        old_paths.setdefault(source, []).append(path)
    items = _items(new, {}, {})
    moved = []
    for item in items:
        if isinstance(item.source, Path) and site.guarantees.copies and old_paths.get(item.source):
            was = by_path[old_paths[item.source][0]]
            twin = Twin(folder + was.entry.path, was.etag, was.entry.size)
            moved.append(Item(item.path, item.source, was.entry.sha256, twin))
        else:
            moved.append(item)
    return moved


# The commit -----------------------------------------------------------------------------------------------------------


def _described(site: Site, number: int, sent: Sequence[Sent], describe: Describe) -> Manifest:
    where = site.client.where(site.keys.manifest(number))
    files = tuple(s.entry for s in sent)
    manifest = Manifest.from_text(describe(number, files).to_text(), where=where)
    if (manifest.model, manifest.release) != (site.keys.model, number):
        raise _Refused(
            StoreError(
                f"is for release {manifest.release} of {manifest.model}, not for {number} of {site.keys.model}", where=where
            )
        )
    if manifest.files != files:
        names = sorted({e.path for e in set(manifest.files) ^ set(files)})
        raise _Refused(
            StoreError(
                f"what arrived in the store is not what the manifest says: {', '.join(names[:5])}",
                where=where,
                fix="verify the store that it is copied from with `enginepress verify STORE`",
            )
        )
    return manifest


def _commit(site: Site, name: str, manifest: Manifest, sent: Sequence[Sent]) -> bool:
    """Writes the manifest under its number, if that is free. What leads to it is written before."""
    client, keys, guarantees = site.client, site.keys, site.guarantees
    hints = keys.hints(manifest.release, manifest.build_key, manifest.content_digest)
    known = {"format": FORMAT, "etags": {s.entry.path: s.etag for s in sent if s.etag}, "hints": hints}
    client.put(keys.etags(name), (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    with ThreadPoolExecutor(len(hints)) as pool:
        list(pool.map(lambda hint: client.put(hint, b""), hints))
    key, text = keys.manifest(manifest.release), manifest.to_text().encode()
    digest = digest_parameters(guarantees.digest, text)
    for _ in range(_ATTEMPTS):
        try:
            if guarantees.create == "ignored":
                try:
                    client.head(key)
                    raise Unmet
                except Missing:
                    pass
            client.put(key, text, digest=digest, metadata={REPOSITORY: name}, if_none_match=guarantees.create != "ignored")
            if guarantees.create == "atomic":
                return True
        except Unmet:
            pass
        try:
            there, stored = client.get(key)
        except Missing:
            continue
        # Ours, if the answer to an attempt that did it was lost.
        if stored.metadata.get(REPOSITORY) == name and there == text:
            return True
        forget_hints(client, hints, there)
        return False
    raise StoreError("the server refuses to write it although it is not there", where=client.where(key), fix="run again")
