"""What fixtures of several test folders share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.s3_server.server import S3Server


@contextmanager
def server_in_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with an empty bucket `bucket`, which the environment names."""
    pytest.importorskip("boto3")
    with S3Server() as running:
        running.add("bucket", {})
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
