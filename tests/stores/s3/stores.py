"""Stores on the S3 servers of tests, and what lies in a bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginepress import pieces
from enginepress.errors import StoreError
from enginepress.manifest import Manifest
from enginepress.pieces import digests_of_folder
from enginepress.stores.s3 import S3Store, S3StoreSettings, sending
from enginepress.stores.s3.client import StoreClient
from tests.s3_server import S3Server
from tests.stores import parts
from tests.stores.parts import MODEL

QUICK = (0.0, 0.01, 0.01, 0.02, 0.02, 0.02)


def a_store(*, bucket: str = "bucket", prefix: str = "models", **settings: Any) -> S3Store:
    """A store at the server that the environment names; asks again without pauses."""
    given = replace(S3StoreSettings(), **settings)
    return S3Store(bucket, prefix, settings=given, client=StoreClient(bucket, given.server, pauses=QUICK))


def publish(store: S3Store, source: Path, build_key: str = parts.key("a"), **more: Any) -> Manifest:
    return parts.publish(store, source, build_key, **more)  # type: ignore[arg-type]


def hashed_before(source: Path) -> dict[str, Any]:
    """What assembling knows of a repository's files, as arguments of `publish`."""
    digests = digests_of_folder(source)
    return {
        "expected": {source / path: found.sha256 for path, found in digests.items()},
        "pieces": {source / path: found.pieces for path, found in digests.items() if found.pieces is not None},
    }


def refuses_what_was_changed(source: Path, large: str) -> None:
    """A byte of a large file is changed after its pieces were hashed: it is the server that must refuse it."""
    store = a_store(prefix="changed", single_writer=True)
    path, known = source / MODEL / "0" / large, hashed_before(source)
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"was changed since it was checked: \d+ bytes from \d+ on are others"):
        publish(store, source, **known)
    assert store.numbers(MODEL) == []
    path.write_bytes(right)


def small_parts(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Files are hashed and sent in pieces of so many bytes."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", count)
    monkeypatch.setattr(sending, "PART_BYTES", count)


def promote(store: S3Store, channel: str, number: int, **more: Any) -> None:
    def never(root: str) -> Any:
        raise AssertionError("readers of S3 pull")

    store.activate(MODEL, channel, number, never, **{"who": "test", "why": "because", **more})


def keys(server: S3Server, bucket: str = "bucket") -> set[str]:
    """What lies in a bucket."""
    return {key for key in server.buckets[bucket].objects if server.buckets[bucket].current(key) is not None}


def leftovers(server: S3Server, bucket: str = "bucket", prefix: str = "models") -> list[str]:
    """What belongs to no release: notes of publishers, repositories that no manifest names, uploads, hints that lead nowhere,
    records of releases that are gone."""
    base = f"{prefix}/{MODEL}/"
    named, hints, numbers = set(), set(), set()
    for key in keys(server, bucket):
        if key.startswith(f"{base}releases/") and (found := server.buckets[bucket].current(key)) is not None and found.data:
            manifest = Manifest.from_text(found.data, where=key)
            named.add(found.metadata["x-amz-meta-repository"])
            numbers.add(str(manifest.release))
            hints |= {f"builds/{manifest.build_key}/{manifest.release}", f"contents/{manifest.content_digest}/{manifest.release}"}
    left = [f"upload of {u.key}" for u in server.uploads.values()]
    for key in sorted(keys(server, bucket)):
        kind, _, rest = key.removeprefix(base).partition("/")
        left += [key] if kind == "publishers" or ".probe" in key else []
        left += [key] if kind in ("repositories", "etags") and rest.split("/")[0].removesuffix(".json") not in named else []
        left += [key] if kind == "records" and rest.split("/")[0] not in numbers else []
        left += [key] if kind in ("builds", "contents") and key.removeprefix(base) not in hints else []
    return left
