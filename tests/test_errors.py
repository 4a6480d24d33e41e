from __future__ import annotations

import pytest

from enginepress.errors import EnginepressError, RecipeError, SourceError, StoreError, UnsafePathError, error_from_json


@pytest.mark.parametrize("kind", [RecipeError, SourceError, StoreError, UnsafePathError])
def test_an_error_without_a_fix_of_its_own_still_says_what_to_do(kind: type[EnginepressError]) -> None:
    assert kind("is wrong").fix
    assert kind("is wrong", fix="mend it").fix == "mend it"


@pytest.mark.parametrize("error", [RecipeError("a", where="b"), SourceError("a", fix="c"), EnginepressError("a")])
def test_an_error_travels_as_json(error: EnginepressError) -> None:
    again = error_from_json(error.to_json())
    assert type(again) is type(error)
    assert (str(again), again.fix, again.exit_status) == (str(error), error.fix, error.exit_status)
