"""outdated: which recipes' sources have moved since they were locked or built. Downloads nothing.

One small request a source, many at a time; what one source answers or fails with touches no other. Answers are kept with
their ETags, so that a hub that has nothing new says no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import EnginepressError, RecipeError, StoreError
from enginepress.lockfile import parse_lock
from enginepress.recipe import Recipe, Source
from enginepress.recipe_file import load_recipe
from enginepress.steps.latest import LatestRevisions
from enginepress.stores.open import open_store

AT_ONCE = 16

Status = Literal["current", "moved", "new", "failed"]


@dataclass(frozen=True)
class SourceState:
    """One recipe's source.

    Attributes:
        status: moved: it is not any more what was locked or built; new: it was neither; failed: it could not be asked.
        since: what `known` comes from: `lock`, `release <number>`, or "".
        known, latest: revision ids, as the source calls them.
        note: what else there is to know, such as a newer version beside a named one.
        error, fix: what went wrong, if it failed.
    """

    recipe: str
    name: str
    uri: str
    status: Status
    since: str = ""
    known: str = ""
    latest: str = ""
    note: str = ""
    error: str = ""
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def outdated(recipes: Iterable[Path], cache: Path, *, at_once: int = AT_ONCE) -> list[SourceState]:
    """How the recipes' sources stand, in the recipes' order."""
    with LatestRevisions(cache) as latest:
        return latest.for_each(recipes, lambda path: _state(path, latest.id), at_once=at_once)


def _state(path: Path, latest: Callable[[Source], str]) -> SourceState:
    name, uri = "", ""
    try:
        recipe = load_recipe(path, need_reference=False)
        name, uri = recipe.name, recipe.source.uri
        known, since = _known(recipe)
        now = latest(recipe.source)
    except EnginepressError as error:
        return SourceState(str(path), name, uri, "failed", error=str(error), fix=error.fix or "")
    note = ""
    if uri.startswith("ngc://") and ":" in uri.removeprefix("ngc://") and not uri.endswith(":latest"):
        named = uri.rpartition(":")[2]
        # A version does not change: that a newer one exists is news, and no reason to build again.
        note = f"version {now} is newer" if now != named else ""
        now = named
    status: Status = "new" if not known else "current" if known == now else "moved"
    return SourceState(str(path), name, uri, status, since, known, now, note)


def _known(recipe: Recipe) -> tuple[str, str]:
    """The revision that was locked, else the one that the newest release was built from; and which of both it is."""
    if recipe.source.lock is not None:
        return parse_lock(recipe.source.lock).revision.id, "lock"
    try:
        store = open_store(recipe.stores[0])
        numbers = store.numbers(recipe.name)
        made_from = store.manifest(recipe.name, numbers[-1]).made_from if numbers else {}
    except (RecipeError, StoreError):
        return "", ""  # A store that cannot be read is for `enginepress doctor` to explain.
    uri = recipe.source.uri
    source = str(made_from.get("source", ""))
    if not source or not (uri == source or uri.startswith((f"{source}@", f"{source}:", f"{source}/"))):
        return "", ""
    return str(made_from["revision"]), f"release {numbers[-1]}"
