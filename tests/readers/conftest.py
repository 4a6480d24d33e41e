from __future__ import annotations

import pytest

from tests.readers.trt_site import TrtRelease, trt_releases


@pytest.fixture(scope="session")
def trt(tmp_path_factory: pytest.TempPathFactory) -> list[TrtRelease]:
    return trt_releases(tmp_path_factory.mktemp("trt"))
