"""One transfer under all sources. A source opens ranges of files; everything else is done here.

http        the client that sources ask with
fetch       one file: small in one piece, large in several streams, or placed without moving a byte
receive     one piece, in order, hashed while it arrives
streams     several pieces at a time, and the hash that follows them
partial     the bytes so far and the record of which they are, which outlive the process
ranges      sets of bytes
hashes      the digests of a file, and the comparison that admits it
pace        bandwidth cap, pauses, stalled streams
disk        writing, copying, syncing
"""

from __future__ import annotations

from enginepress.sources.transfer.fetch import Download
from enginepress.sources.transfer.hashes import FileHash
from enginepress.sources.transfer.http import Answer, HttpClient, public_address
from enginepress.sources.transfer.pace import PAUSES
from enginepress.sources.transfer.partial import PartialStore
from enginepress.sources.transfer.receive import Request, Stopped, read_file, receive

__all__ = [
    "PAUSES",
    "Answer",
    "Download",
    "FileHash",
    "HttpClient",
    "PartialStore",
    "Request",
    "Stopped",
    "public_address",
    "read_file",
    "receive",
]
