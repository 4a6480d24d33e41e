"""Takes a release out of a store on S3, where no lock keeps movers of channels and other removers away.

A remover makes a note of the repository (enginepress.stores.s3.publishers), which only one can, and then looks for channels. A
mover moves its channel and then looks for the note: one of them sees the other, and gives way. A mover that was killed in
between did not look, so the remover looks again before anything is deleted. The manifest goes first and at once; it leaves an
empty object, which keeps the number taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enginepress.errors import StoreError
from enginepress.manifest import Manifest
from enginepress.stores.s3.client import Missing, StoreClient
from enginepress.stores.s3.layout import REPOSITORY, ModelKeys
from enginepress.stores.s3.publishers import Publisher, is_being_removed
from enginepress.stores.s3.publishing import Site, check_single_writer


@dataclass(frozen=True)
class Doomed:
    """What is to be removed.

    Attributes:
        name: of its repository.
        text: the manifest as it is stored, put back as it was, should the release stay: signatures are over these bytes.
        pointing: the channels that are on it now.
        sweep: settles what killed ones left.
    """

    manifest: Manifest
    name: str
    text: bytes
    pointing: Callable[[], list[str]]
    sweep: Callable[[], None]

    def stays(self, site: Site, why: str, fix: str) -> StoreError:
        return StoreError(f"release {self.manifest.release} of {site.keys.model} {why}", where=site.url, fix=fix)


def remove(site: Site, doomed: Doomed) -> None:
    """Removes a release; see `Store.remove`."""
    client, keys, number = site.client, site.keys, doomed.manifest.release
    if pointing := doomed.pointing():
        raise doomed.stays(site, f"is on {', '.join(pointing)}, so it is not removed", "move the channel first")
    check_single_writer(site)
    remover = _remover(site, doomed)
    try:
        if not is_release(client, keys, number):
            remover.give_up()
            raise StoreError(f"has no release {number} of {keys.model}: another remover was faster", where=site.url)
        if not (pointing := doomed.pointing()):
            client.put(keys.manifest(number), b"")
            if pointing := doomed.pointing():
                client.put(keys.manifest(number), doomed.text, metadata={REPOSITORY: doomed.name})
        if pointing:
            remover.give_up()
            fix = "look at `enginepress releases TARGET`, then decide again"
            raise doomed.stays(site, f"was put on {', '.join(pointing)} meanwhile, so it stays", fix)
        client.delete_all(keys.hints(number, doomed.manifest.build_key, doomed.manifest.content_digest))
        client.delete_all([s.key for s in client.listing(keys.records(number))])
        remover.withdraw()
    finally:
        remover.end_removal()


def _remover(site: Site, doomed: Doomed) -> Publisher:
    """Who alone may remove this repository. What a killed one has noted is settled first."""
    for _ in range(2):
        remover = Publisher(site.client, site.keys, site.guarantees)
        if remover.begin_removal(doomed.name):
            return remover
        doomed.sweep()
    fix = "wait until they are done; who was killed on another machine counts as done after 15 minutes"
    raise doomed.stays(site, "is being published or removed by somebody else, so it is not removed", fix)


def check_movable(site: Site, number: int, name: str) -> None:
    """What a mover looks at before its move and after it.

    Raises:
        StoreError: if the release was removed, or is being removed.
    """
    what = f"release {number} of {site.keys.model}"
    if is_being_removed(site.client, site.keys, name):
        fix = "promote another release; if nobody removes it any more, the next publish or `enginepress prune` frees it"
        raise StoreError(f"{what} is being removed", where=site.url, fix=fix)
    if not is_release(site.client, site.keys, number):
        raise StoreError(f"{what} was removed meanwhile", where=site.url, fix="promote another release")


def is_release(client: StoreClient, keys: ModelKeys, number: int) -> bool:
    """Whether there is a release of that number, and it was not removed."""
    try:
        return client.head(keys.manifest(number)).size > 0
    except Missing:
        return False


def remove_orphaned_records(client: StoreClient, keys: ModelKeys, removed: set[int]) -> None:
    """Records that were written while their release was being removed. A remover at work may still put a release back."""
    orphaned = {int(name) for name in client.folders(keys.all_records) if name.isdecimal()} & removed
    if not orphaned:
        return
    at_work = {int(name.partition("-")[0]) for name in client.objects(keys.publishers) if name[0].isdecimal()}
    for number in orphaned - at_work:
        if not is_release(client, keys, number):
            client.delete_all([s.key for s in client.listing(keys.records(number))])
