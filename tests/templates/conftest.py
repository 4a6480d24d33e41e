"""One tiny engine and one server for all tests that only ask; the template's modules can be imported here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.serving.tritonserver import TritonServer
from tests.engines.checkpoints import make_checkpoint
from tests.templates.repository import COMMON, TEMPLATE, TEMPLATES, build_engine, write_model

for folder in (TEMPLATE, COMMON, *(TEMPLATES / "tensorrt_llm" / part for part in ("", "preprocessing", "bls"))):
    sys.path.append(str(folder))

CONTEXT = 1024


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", max_position_embeddings=CONTEXT)


@pytest.fixture(scope="session")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(checkpoint, tmp_path_factory.mktemp("engine") / "tiny")


@pytest.fixture(scope="session")
def server(checkpoint: Path, engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Serves `tiny`; `small`: two requests at a time, four tokens by default, 40 tokens in all, no second path."""
    folder = tmp_path_factory.mktemp("served")
    write_model(folder / "models", "tiny", checkpoint=checkpoint, engine=engine)
    small = {
        "max_concurrent_requests": 2,
        "max_tokens_default": 4,
        "max_sequence_length": 40,
        "slow_path_requests": 0,
        "threads": 1,
    }
    write_model(folder / "models", "small", checkpoint=checkpoint, engine=engine, **small)
    with TritonServer(folder / "models", log=folder / "server.log", exit_timeout_s=0) as running:
        yield running
