"""What a server really does: S3-compatible servers differ, and answer 200 to conditions that they have not looked at.

    <store>/server.json    {"format": 2, "endpoint": "…", "checksum": "auto", "asked": 1790000000, "guarantees": {…}}

Asked before the first write, with a few small objects that are removed again, and then kept in the store for a month. What
is asked: is a wrong digest refused; is `If-None-Match: *`, also when eight ask at the same time; is `If-Match`, with an ETag
in quotes or without; is the ETag the MD5; can objects be copied, and only if they have an ETag.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from enginepress.errors import StoreError
from enginepress.json_text import json_value
from enginepress.stores.s3.client import Missing, StoreClient, Unmet, Unsupported
from enginepress.stores.s3.digests import DigestKind, digest_parameters, md5_of

FORMAT = 2
KEPT_SECONDS = 30 * 24 * 3600.0
WRITERS = 8
ROUNDS = 5
_SWIFT = ("x-trans-id", "x-openstack-request-id")

Quoting = Literal["quoted", "bare", "none"]


@dataclass(frozen=True)
class Guarantees:
    """What the server was seen to do.

    Attributes:
        create: `If-None-Match: *` lets one of many writers through (atomic), sometimes more than one (racy), or is ignored.
        match: how `If-Match` wants its ETag; none: it is not honoured by one of many writers only.
        digest: which digest of a request's body is compared: a wrong one is refused. none: no digest that was tried.
        etag_md5: whether ETags are the MD5 of what the server has.
        copy_match: how a copy's condition on the ETag is written; none: it is not looked at.
        copies: whether objects can be copied within the server.
    """

    create: Literal["atomic", "racy", "ignored"]
    match: Quoting
    digest: DigestKind
    etag_md5: bool
    copies: bool
    copy_match: Quoting

    def written(self, etag: str) -> str:
        """An ETag as `If-Match` wants it."""
        return f'"{etag}"' if self.match == "quoted" else etag

    def in_words(self) -> dict[str, str]:
        """For people: each guarantee, and what is done where it does not hold."""
        create = {
            "atomic": "release numbers: allotted atomically by the server",
            "racy": "release numbers: the server may let two writers through at once: single_writer must be true",
            "ignored": "release numbers: the server overwrites what is there: single_writer must be true",
        }[self.create]
        match = "channels: compared and set by the server"
        if self.match == "none":
            match = "channels: the server does not compare, so single_writer must be true"
        kind = "sha256 of the payload" if self.digest == "payload" else self.digest
        digest = f"digests: a wrong {kind} is refused"
        if self.digest == "none":
            digest = "digests: not compared by the server, so every file is read back after it was sent"
        copies = "unchanged files: copied within the server" if self.copies else "unchanged files: sent again"
        return {"create": create, "match": match, "digest": digest, "copies": copies}


def guarantees_of(client: StoreClient, prefix: str, checksum: str, *, again: bool = False) -> Guarantees:
    """From the store's own note, or by asking the server.

    Args:
        prefix: of the store, "" or with a slash at its end.
        checksum: as the recipe says: `auto`, or the one digest to use.
        again: ask, whatever the note says.

    Raises:
        StoreError: if the store cannot be written.
    """
    key = f"{prefix}server.json"
    endpoint = client.settings.address()
    if not again:
        try:
            note = json_value(client.get(key)[0])
            same = (note["format"], note["endpoint"], note["checksum"]) == (FORMAT, endpoint, checksum)
            if same and 0 <= time.time() - note["asked"] < KEPT_SECONDS:
                return Guarantees(**note["guarantees"])
        except (Missing, ValueError, KeyError, TypeError):
            pass
    found = ask_server(client, f"{prefix}.probe-{uuid.uuid4().hex[:12]}/", checksum)
    note = {"format": FORMAT, "endpoint": endpoint, "checksum": checksum, "asked": int(time.time()), "guarantees": asdict(found)}
    client.put(key, (json.dumps(note, indent=1, sort_keys=True) + "\n").encode())
    return found


def check_writable(client: StoreClient, prefix: str) -> None:
    """Puts and removes a small object. A kept note says nothing of today's credentials, quota or policy.

    Raises:
        StoreError: if the store cannot be written.
    """
    key = f"{prefix}.probe-{uuid.uuid4().hex[:12]}/written"
    client.put(key, b"can this store be written?")
    with suppress(StoreError):
        client.delete(key)


def ask_server(client: StoreClient, folder: str, checksum: str) -> Guarantees:
    """Puts and removes small objects in `folder`."""
    data = b"what does this server guarantee?"
    try:
        etag = client.put(f"{folder}plain", data)
        kinds: list[DigestKind] = ["payload", "md5", "sha256", "crc32"] if checksum == "auto" else [checksum]  # type: ignore[list-item]
        digest = next((k for k in kinds if k != "none" and _refuses(client, f"{folder}digest", k)), "none")
        match = _match(client, f"{folder}match", data)
        copies, copy_match = _copies(client, f"{folder}plain", f"{folder}copy", etag)
        return Guarantees(
            create=_create(client, folder, data),
            match=match,
            digest=digest,  # type: ignore[arg-type]
            etag_md5=etag == md5_of(data).hex(),
            copies=copies,
            copy_match=copy_match,
        )
    finally:
        try:
            client.delete_all([s.key for s in client.listing(folder)])
        except StoreError:
            pass


def _refuses(client: StoreClient, key: str, kind: DigestKind) -> bool:
    """Whether a body that is not what its digest says is refused, and one that is so is taken."""
    try:
        client.put(key, b"right", digest=digest_parameters(kind, b"right"))
        with client.damaging(key, b"right") if kind == "payload" else nullcontext():
            client.put(key, b"wrong" if kind == "payload" else b"right", digest=digest_parameters(kind, b"wrong"))
    except (StoreError, Unsupported):
        try:
            client.put(key, b"right", digest=digest_parameters(kind, b"right"))
        except (StoreError, Unsupported):
            return False
        return True
    return False


def _create(client: StoreClient, folder: str, data: bytes) -> Literal["atomic", "racy", "ignored"]:
    try:
        client.put(f"{folder}plain", data, if_none_match=True)
        return "ignored"
    except Unmet:
        pass
    except (Unsupported, StoreError):
        return "ignored"
    if any(name in client.answer_headers() for name in _SWIFT):
        return "racy"
    for number in range(ROUNDS):
        if _winners(partial(client.put, f"{folder}race{number}", if_none_match=True)) > 1:
            return "racy"
    return "atomic"


def _match(client: StoreClient, key: str, data: bytes) -> Quoting:
    for quoting in ("quoted", "bare"):
        etag = client.put(key, data)
        written = f'"{etag}"' if quoting == "quoted" else etag
        wrong = written.replace(etag, md5_of(b"another").hex())
        try:
            client.put(key, data + b"!", if_match=written)
            client.put(key, data + b"?", if_match=wrong)
            return "none"  # a condition that does not hold was not looked at
        except (Missing, Unmet):
            if client.get(key)[0] != data + b"!":
                continue
        except (Unsupported, StoreError):
            return "none"
        for _ in range(ROUNDS):
            now = client.put(key, data)
            condition = f'"{now}"' if quoting == "quoted" else now
            if _winners(partial(client.put, key, if_match=condition)) > 1:
                return "none"
        return quoting
    return "none"


def _winners(put: Callable[[bytes], Any]) -> int:
    """How many of several writers at the same time are told that they were the one. None is no proof: an answer may be lost."""

    def attempt(number: int) -> int:
        try:
            put(f"writer {number}".encode())
            return 1
        except (Unmet, Missing):
            return 0

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(attempt, range(WRITERS)))


def _copies(client: StoreClient, source: str, target: str, etag: str) -> tuple[bool, Quoting]:
    try:
        for quoting in ("quoted", "bare"):
            written = f'"{etag}"' if quoting == "quoted" else etag
            wrong = written.replace(etag, md5_of(b"another").hex())
            try:
                client.copy(source, target, etag=written)
            except (Missing, Unmet):
                continue
            if client.get(target)[0] != client.get(source)[0]:
                return False, "none"
            try:
                client.copy(source, target, etag=wrong)
                return True, "none"
            except (Missing, Unmet):
                return True, quoting
    except (Unsupported, StoreError):
        pass
    return False, "none"
