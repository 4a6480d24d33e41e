"""One transfer under all sources. A source opens ranges of files; everything else is done here.

hashes      the digests of a file, and the comparison that admits it
receive     one file in one piece, in order
"""

from __future__ import annotations

from enginepress.sources.transfer.hashes import FileHash
from enginepress.sources.transfer.receive import PAUSES, Request, fetch, read_file, receive

__all__ = ["PAUSES", "FileHash", "Request", "fetch", "read_file", "receive"]
