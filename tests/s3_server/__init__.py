"""An S3 server for tests: real HTTP(S), signatures and checksums checked, versions, faults on demand.

with S3Server() as s3:
    s3.add("bucket", {"model/config.json": b"{}"})
    environment |= s3.environment
"""

from __future__ import annotations

from tests.s3_server.server import S3Server, StoredObject

__all__ = ["S3Server", "StoredObject"]
