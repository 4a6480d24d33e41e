"""One reason why a plan does not hold. Reasons are collected, so that a recipe is refused once and with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginepress.errors import RecipeError


@dataclass(frozen=True)
class Problem:
    """`where`: the recipe's field; `message`: value and limit; `fix`: what to do."""

    where: str
    message: str
    fix: str

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "message": self.message, "fix": self.fix}


def of_error(error: RecipeError) -> Problem:
    return Problem(error.where or "recipe", error.message, error.fix or "")


def combined(problems: Sequence[Problem]) -> RecipeError:
    """One error for all of them."""
    if len(problems) == 1:
        return RecipeError(problems[0].message, where=problems[0].where, fix=problems[0].fix)
    lines = [f"{len(problems)} things are in the way:", *(f"  {p.where}: {p.message}" for p in problems)]
    fixes = list(dict.fromkeys(p.fix for p in problems if p.fix))
    return RecipeError("\n".join(lines), where="engine", fix="; ".join(fixes))
