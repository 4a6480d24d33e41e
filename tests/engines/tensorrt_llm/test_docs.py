"""docs/tensorrt_llm.md says what the tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, FAMILIES, REFUSED
from enginepress.engines.tensorrt_llm.convert_command import QFORMATS
from enginepress.engines.tensorrt_llm.timing_cache import VARIABLE
from enginepress.engines.tensorrt_llm.tools import EXAMPLES, KNOWN_EXAMPLES

PAGE = (Path(__file__).parents[3] / "docs" / "tensorrt_llm.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_each_architecture_has_a_line_with_its_script(name: str) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(lines) == 1
    architecture = ARCHITECTURES[name]
    family = FAMILIES[architecture.family]
    cells = [cell.strip() for cell in lines[0].split("|")]
    assert cells[2] == f"{family.group}/{family.folder}"
    assert ("PP" in cells[3]) == family.pipeline
    assert cells[5] == ("yes" if architecture.modelopt else "no")
    assert cells[6] == (architecture.since if architecture.since != "0.18" else "")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_each_refused_architecture_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_precisions_and_variables_are_named() -> None:
    for word in (*QFORMATS, VARIABLE, EXAMPLES, *KNOWN_EXAMPLES):
        assert f"`{word}`" in PAGE
