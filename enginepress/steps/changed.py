"""changed: which recipes a run would have work for, and why. For watchers and scheduled rebuilds; downloads and builds nothing.

Each recipe's source is asked for its revision (`steps.latest`: one small request, many at a time), and the build key that a run
would have is looked for in the recipe's stores. So not only a checkpoint that moved is noticed, but whatever else goes into the
key: the recipe itself, the container or packages that build, the template. What one recipe fails with touches no other.

A watched recipe is built from what its source has now, also where it has a lock: the release's own lock lies beside it
(`steps.publish`). It is promoted to the channel `candidate` and to no other, whatever channels it names: what goes to production
is for people to say.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from enginepress.canonical import json_digest
from enginepress.engines import get_builder
from enginepress.errors import EnginepressError, RecipeError, StoreError
from enginepress.lockfile import parse_lock
from enginepress.manifest import Manifest
from enginepress.recipe import Recipe
from enginepress.recipe_file import check_secrets, load_recipe
from enginepress.repository.templates import template_digest
from enginepress.steps.job import Plan
from enginepress.steps.latest import LatestRevisions
from enginepress.steps.outdated import AT_ONCE
from enginepress.steps.outstanding import outstanding
from enginepress.steps.resolve import plan_for
from enginepress.steps.verify import check_reference
from enginepress.stores.open import open_store
from enginepress.unexplained import explain
from enginepress.workspace import Workspace

CHANNEL = "candidate"
"""The only channel to which what is built unattended is promoted."""

State = Literal["current", "moved", "new", "altered", "unfinished", "failed"]


@dataclass(frozen=True)
class Change:
    """How one recipe stands.

    Attributes:
        path: the recipe's file.
        name: of the model; empty if the recipe cannot be read.
        uri: of its source.
        state: `current`: nothing is to do. To be built: `new` (there is no release), `moved` (its source has other bytes than the
            newest release was made from), `altered` (the same bytes; the recipe, what builds it, or the template has changed).
            `unfinished`: the release is there, and something around it is missing. `failed`: it cannot be told.
        reasons: what is different or missing, in words.
        recipe: what is to be run, from what the source has now, for the channel `candidate`. None if the state is `current` or
            `failed`.
        revision, build_key: what a run would build; empty if that failed.
        release: with this build key; 0 if there is none.
        store: the URL of its primary store; empty if the recipe cannot be read.
        note: what else there is to know, such as a lock that the source has left behind.
        error: `EnginepressError.to_json`, if it failed.
    """

    path: str
    name: str
    uri: str
    state: State
    reasons: tuple[str, ...] = ()
    recipe: Recipe | None = None
    revision: str = ""
    build_key: str = ""
    release: int = 0
    store: str = ""
    note: str = ""
    error: Mapping[str, Any] | None = None

    @property
    def target(self) -> str:
        """The model in its primary store, which no other watched recipe has: wherever the recipe's file lies, it is the same."""
        return f"{self.store.rstrip('/')}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "name": self.name,
            "uri": self.uri,
            "state": self.state,
            "reasons": list(self.reasons),
            "revision": self.revision,
            "build_key": self.build_key,
            "release": self.release,
            "store": self.store,
            "note": self.note,
            "error": dict(self.error) if self.error is not None else None,
        }


def changed(recipes: Iterable[Path], workspace: Workspace, *, at_once: int = AT_ONCE) -> list[Change]:
    """How the recipes stand, in their order.

    Args:
        workspace: its cache spares requests; nothing else of it is read or written.
        at_once: sources asked at a time.
    """
    with LatestRevisions(workspace.path("cache")) as latest:
        return _apart(latest.for_each(recipes, _Comparison(latest).of, at_once=at_once))


def _apart(changes: list[Change]) -> list[Change]:
    """Two recipes of one model in one store would move its candidate to and fro, so neither is built."""
    places: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        if change.store:
            places.setdefault((change.store, change.name), []).append(change.path)

    def checked(change: Change) -> Change:
        others = [path for path in places.get((change.store, change.name), ()) if path != change.path]
        if not others:
            return change
        error = RecipeError(
            f"is a recipe of {change.name} in {change.store}, and so is {', '.join(sorted(others))}",
            where=change.path,
            fix="give each model a name of its own, or watch one of these recipes",
        )
        return replace(change, state="failed", reasons=(), recipe=None, error=error.to_json())

    return [checked(change) for change in changes]


def for_watching(recipe: Recipe) -> Recipe:
    """The recipe as it is built unattended: from what its source has now, for the channel `candidate`."""
    return recipe.model_copy(
        update={"source": recipe.source.model_copy(update={"lock": None}), "channels": [CHANNEL]},
    )


class _Comparison:
    """What the recipes of one pass share. Versions of packages and digests of templates are looked up once a pass: between two
    passes of a watcher they may change."""

    def __init__(self, latest: LatestRevisions) -> None:
        self._latest = latest
        self._environments: dict[str, Mapping[str, str]] = {}
        self._templates: dict[str, str] = {}

    def of(self, path: Path) -> Change:
        name, uri = "", ""
        try:
            written = load_recipe(path)
            name, uri = written.name, written.source.uri
            return self._compared(path, written)
        except EnginepressError as error:
            return Change(str(path), name, uri, "failed", error=error.to_json())
        except Exception as error:  # a bug that one recipe meets must not keep the others from being built
            bug = {"type": "bug", "message": f"{type(error).__name__}: {error}", "where": str(path), "fix": "please report it"}
            explained = explain(error)
            return Change(str(path), name, uri, "failed", error=explained.to_json() if explained else bug)

    def _compared(self, path: Path, written: Recipe) -> Change:
        check_secrets(written)
        recipe = for_watching(written)
        environment, template = self._builds_with(recipe)
        revision = self._latest.revision(recipe)
        plan = plan_for(recipe, revision, environment, template, f"watch-{uuid.uuid4().hex[:8]}")
        common = Change(
            str(path),
            recipe.name,
            recipe.source.uri,
            "current",
            revision=revision.id,
            build_key=plan.build_key,
            release=plan.release,
            store=recipe.stores[0].url,
            note=_lock_note(written, plan),
        )
        missing = outstanding(recipe, plan)
        if not missing:
            return common
        check_reference(recipe, plan.revision)
        if plan.release or plan.lost:
            return replace(common, state="unfinished", reasons=tuple(missing), recipe=recipe)
        newest = _newest(recipe)
        if newest is None:
            return replace(common, state="new", reasons=("it was never built",), recipe=recipe)
        if newest.made_from["revision_digest"] != plan.revision:
            before = newest.made_from["revision"]
            moved = f"its source was {before[:12]} for release {newest.release} and is {revision.id[:12]} now"
            return replace(common, state="moved", reasons=(moved,), recipe=recipe)
        return replace(common, state="altered", reasons=_differences(newest, recipe, environment), recipe=recipe)

    def _builds_with(self, recipe: Recipe) -> tuple[Mapping[str, str], str]:
        """What the builder declares, and the digest of the template."""
        builder = get_builder(recipe.engine.builder)
        key = json_digest({k: v for k, v in recipe.build_fields().items() if k in ("engine", "serving")})
        if key not in self._environments:
            self._environments[key] = builder.declared(recipe)
        template = builder.template(recipe)
        if template not in self._templates:
            self._templates[template] = template_digest(template)
        return self._environments[key], self._templates[template]


def _newest(recipe: Recipe) -> Manifest | None:
    store = open_store(recipe.stores[0])
    numbers = store.numbers(recipe.name)
    try:
        return store.manifest(recipe.name, numbers[-1]) if numbers else None
    except StoreError:
        return None  # a damaged one tells nothing, and bars no new one


def _lock_note(written: Recipe, plan: Plan) -> str:
    if written.source.lock is None:
        return ""
    locked = parse_lock(written.source.lock).revision
    if locked.digest == plan.revision:
        return ""
    release = f"--release {plan.release}" if plan.release else "--release with the number of the new release"
    return f"its lock is still of {locked.id[:12]}; what is built has its own: `enginepress lock RECIPE {release}` takes it over"


def _differences(newest: Manifest, recipe: Recipe, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What is different from the newest release, which was made from the same bytes."""
    found = []
    before = newest.made_with.get("environment", {})
    for name in sorted({*before, *environment}):
        if before.get(name) != environment.get(name):
            found.append(f"{name} was {before.get(name, 'not there')} and is {environment.get(name, 'not there')} now")
    try:
        old = _flat(Recipe.model_validate(newest.recipe).build_fields())
    except ValueError:
        return (*found, "the recipe of the newest release is one of another version of enginepress")
    new = _flat(recipe.build_fields())
    for field in sorted({*old, *new}):
        if old.get(field) != new.get(field):
            found.append(f"{field} was {old.get(field, 'the default')} and is {new.get(field, 'the default')} now")
    return tuple(found) or (f"the model repository's template is another one than that of release {newest.release}",)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
