from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.warm_tool import WarmBuilder, warm_builder


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmBuilder]:
    """The builder, with the tool in a process that has imported torch already."""
    with warm_builder() as builder:
        yield builder
