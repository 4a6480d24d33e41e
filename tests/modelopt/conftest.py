from __future__ import annotations

from collections.abc import Iterator

import pytest

from enginepress.engines import modelopt
from tests.engines.warm_tool import WarmTool, warm_tool

IMPORTS = (
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "modelopt.torch.quantization",
    "modelopt.torch.export.model_config_export",
    "enginepress.engines.modelopt.verify",
)


@pytest.fixture(scope="session")
def _tool() -> Iterator[WarmTool]:
    with warm_tool(*IMPORTS) as tool:
        yield tool


@pytest.fixture
def warm(_tool: WarmTool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelOpt runs in a fork of a process that has imported it already: the same command, environment and log."""
    monkeypatch.setattr(modelopt, "run_logged", _tool.run)
