"""What backups and verification need of a store on S3: who gives the numbers, channels made anew, and what belongs to nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from enginepress.stores.s3.client import StoreClient, Unmet
from enginepress.stores.s3.layout import FORMAT, ModelKeys, is_repository_name
from enginepress.stores.s3.publishing import Site, check_single_writer, description, next_number
from enginepress.stores.store import Allotment

_OWN = re.compile(
    r"model\.json|releases/[1-9][0-9]{0,8}\.json|etags/[^/]+\.json|publishers/[^/]+\.json|records/[1-9][0-9]{0,8}/[^/]+\.json"
    r"|(builds|contents)/[0-9a-f]{64}/[1-9][0-9]{0,8}|channels/[a-z][a-z0-9-]*\.json|history/[a-z][a-z0-9-]*/[0-9]{8}\.json"
)
_NOTES = re.compile(r"(publishers|etags)/([^/]+)\.json")


def allotment(client: StoreClient, keys: ModelKeys) -> Allotment:
    known = description(client, keys)
    return Allotment(known["primary"] if known is not None else None, next_number(client, keys) - 1)


def allot(site: Site, wanted: Allotment) -> None:
    """As `Store.allot`. A number that was given is kept taken by an empty manifest, as a removed release leaves one."""
    check_single_writer(site)
    if wanted.last >= next_number(site.client, site.keys):
        try:
            site.client.put(site.keys.manifest(wanted.last), b"", if_none_match=site.guarantees.create != "ignored")
        except Unmet:
            pass  # somebody took it meanwhile, which is as good
    text = json.dumps({"format": FORMAT, "model": site.keys.model, "primary": wanted.primary}, indent=1, sort_keys=True) + "\n"
    site.client.put(site.keys.description, text.encode())


def store_strays(client: StoreClient, prefix: str, models: list[str]) -> list[str]:
    """Objects and folders right under the store that are no model. Probes of the server remove their own."""
    folders = [name for name in client.folders(prefix) if name not in models and not name.startswith(".probe-")]
    return sorted([*folders, *client.objects(prefix, but={"server.json"})])


def model_strays(client: StoreClient, keys: ModelKeys, repositories: set[str]) -> list[str]:
    """Objects below a model that are nothing of it, relative to it; a repository that belongs to no release stands for all in it.

    Args:
        repositories: those of the releases.
    """
    return sorted(set(_model_strays(client, keys, repositories)))


def _model_strays(client: StoreClient, keys: ModelKeys, repositories: set[str]) -> Iterator[str]:
    there = [stored.key.removeprefix(keys.base) for stored in client.listing(keys.base)]
    noted = {match[2] for path in there if (match := _NOTES.fullmatch(path)) and match[1] == "publishers"}
    for path in there:
        first, _, rest = path.partition("/")
        name = rest.partition("/")[0]
        if first == "repositories" and "/" in rest and is_repository_name(name):
            if name not in repositories | noted:
                yield f"repositories/{name}"
        elif not _OWN.fullmatch(path):
            yield path
