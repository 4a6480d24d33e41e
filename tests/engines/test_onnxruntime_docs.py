"""docs/onnxruntime.md says what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.engines.onnxruntime.support import ACTIVATIONS, FAMILIES, PRECISIONS, REFUSED

PAGE = (Path(__file__).parents[2] / "docs" / "onnxruntime.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_each_family_has_a_line_with_how_far_it_is_verified(architecture: str) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| `{architecture}` |")]
    assert len(lines) == 1
    assert f"| {FAMILIES[architecture].verified} |" in lines[0]


@pytest.mark.parametrize("architecture", sorted(REFUSED))
def test_each_refused_architecture_is_named(architecture: str) -> None:
    assert f"`{architecture}`" in PAGE


def test_the_precisions_are_those_of_the_builder() -> None:
    assert all(f"| `{precision}` |" in PAGE for precision in PRECISIONS)
    assert len(ACTIVATIONS - {"silu", "swish", "relu", "relu2"}) == 4
