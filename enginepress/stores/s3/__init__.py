"""A store on an S3-compatible server. `enginepress.stores.s3.layout` says what lies where.

layout       keys
client       requests, tried again, refused in words
probe        what this server guarantees
digests      what goes with the bytes of a request
buffers      memory for them
sending      files to the server
reading      files from the server
publishers   who is at work, and what killed ones left
publishing   a new release
removing     an old one goes
channels     compare and set
store        `S3Store`, which has all this under the interface of every store
"""

from __future__ import annotations

from enginepress.stores.s3.store import S3Store, S3StoreSettings

__all__ = ["S3Store", "S3StoreSettings"]
