"""docs/modelopt.md says what the tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.engines.modelopt.fields import FAMILIES, REFUSED
from enginepress.engines.modelopt.support import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "modelopt.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_each_family_has_a_line_with_its_models(architecture: str) -> None:
    assert f"| `{architecture}` | {FAMILIES[architecture].models} |" in PAGE


@pytest.mark.parametrize("architecture", sorted(REFUSED))
def test_each_refused_architecture_is_named(architecture: str) -> None:
    assert f"`{architecture}`" in PAGE


@pytest.mark.parametrize("precision", sorted(FORMATS))
def test_each_precision_is_named(precision: str) -> None:
    table = PAGE.partition("## Precision")[2].partition("\n\n")[0]
    assert f"`{precision}`" in table
