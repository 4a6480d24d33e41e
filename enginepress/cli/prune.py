"""`enginepress prune`: removes old releases from stores, and unused outputs from a workspace."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import json_option, load_target

if TYPE_CHECKING:
    from enginepress.recipe import Retention
    from enginepress.steps.prune import Policy, StorePlan
    from enginepress.steps.prune_workspace import WorkspacePlan
    from enginepress.stores.store import Store


@click.command(short_help="Remove old releases from stores, or unused outputs from a workspace.")
@click.argument("target", required=False)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N releases of each model.")
@click.option("--younger-than", metavar="TIME", help="Keep what was published less than so long ago, as 30d or 12h.")
@click.option("--workspace", "-w", metavar="DIR", help="Prune this workspace.")
@click.option("--max-size", metavar="SIZE", help="Workspace: remove what was unused longest until no more than this is left.")
@click.option("--older-than", metavar="TIME", help="Workspace: remove what was not used for so long, as 30d.")
@click.option("--grace", metavar="TIME", help="Nothing that was used more recently is removed.  [default: 1h]")
@click.option("--dry-run", is_flag=True, help="Only show what would go, and how much it frees.")
@click.option(
    "--single-writer", is_flag=True, help="Nobody else writes to the store at the same time: for S3 servers that need it."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def prune(
    target: str | None,
    keep: int | None,
    younger_than: str | None,
    workspace: str | None,
    max_size: str | None,
    older_than: str | None,
    grace: str | None,
    dry_run: bool,
    single_writer: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove old releases from TARGET (a recipe file, STORE, or STORE/MODEL), or unused outputs from a workspace.

    Releases on a channel, and those to which a rollback leads, stay in any case. Without --keep and --younger-than the recipe's
    `retention` says what else stays. Shows what would go first, and asks.
    """
    from enginepress.errors import UsageError

    if (target is None) == (workspace is None):
        raise UsageError("prunes a store or a workspace", fix="name a recipe, STORE or STORE/MODEL, or say `--workspace DIR`")
    if workspace is not None:
        if keep is not None or younger_than is not None or single_writer:
            problem = "--keep, --younger-than and --single-writer are about releases"
            raise UsageError(problem, fix="say `--max-size` or `--older-than`")
        _workspace(workspace, max_size, older_than, grace, _Asking(dry_run, yes, as_json))
        return
    if max_size is not None or older_than is not None:
        raise UsageError("--max-size and --older-than are about a workspace", fix="say `--keep` or `--younger-than`")
    assert target is not None
    _stores(_meant(target, single_writer), keep, younger_than, grace, _Asking(dry_run, yes, as_json))


class _Asking:
    """Whether what was shown is to be done."""

    def __init__(self, dry_run: bool, yes: bool, as_json: bool) -> None:
        self.dry_run = dry_run
        self.as_json = as_json
        self._yes = yes

    def agreed(self, question: str) -> bool:
        from enginepress.errors import UsageError

        if self.dry_run:
            return False
        if self._yes:
            return True
        if self.as_json or not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked, so nothing was removed", fix="say `--yes`, or `--dry-run`")
        return click.confirm(question)


# Stores -----------------------------------------------------------------------------------------------------------------


Meant = tuple[list["Store"], str, "Retention | None"]
"""The stores, the model and the recipe's rules."""


def _stores(meant: Iterator[Meant], keep: int | None, younger_than: str | None, grace: str | None, asking: _Asking) -> None:
    from enginepress.cli.bytes_bar import many
    from enginepress.quantities import size_text
    from enginepress.steps.prune import Pruned, plan_prune, policy_of
    from enginepress.steps.prune import prune as remove

    plans: list[tuple[Policy, list[StorePlan]]] = []
    for stores, model, retention in meant:
        policy = policy_of(retention, keep, younger_than, grace)
        plans.append((policy, plan_prune(stores, model, policy)))
    every = [plan for _, some in plans for plan in some]
    doomed = sum(len(plan.doomed) for plan in every)
    freed = sum(plan.freed for plan in every)
    if not asking.as_json:
        for plan in every:
            _show(plan)
    done = [Pruned() for _ in every]
    if doomed and asking.agreed(f"Remove {doomed} releases and free {size_text(freed)}?"):
        done = [result for policy, some in plans for result in remove(some, policy)]
        if not asking.as_json:
            click.echo(f"{many(sum(len(result.removed) for result in done), 'release')} removed")
    pairs = list(zip(every, done, strict=True))
    if asking.as_json:
        click.echo(json.dumps([{**p.to_json(), "removed": d.removed, "refused": d.refused} for p, d in pairs], indent=2))
    for plan, result in pairs:
        for number, why in result.refused.items():
            click.echo(f"{plan.model} release {number} stays: {why}", err=True)
    if any(result.refused for result in done):
        sys.exit(1)


def _meant(target: str, single_writer: bool) -> Iterator[Meant]:
    from enginepress.recipe_file import absolute_file_url, is_recipe_file
    from enginepress.steps.prune import models_at, stored_retention
    from enginepress.stores.open import as_single_writer, open_store

    if is_recipe_file(target):
        recipe = load_target(target)
        settings = [as_single_writer(s) if single_writer else s for s in recipe.stores]
        yield [open_store(s) for s in settings], recipe.name, recipe.retention
        return
    url = absolute_file_url(target if "://" in target else f"file://{target}", Path.cwd())
    for store, model in models_at(url, single_writer=single_writer):
        yield [store], model, stored_retention(store, model)


def _show(plan: StorePlan) -> None:
    from enginepress.quantities import size_text

    stays = len(plan.fates) - len(plan.doomed)
    click.echo(click.style(f"{plan.model} in {plan.store.url}", bold=True))
    for fate in plan.fates:
        if fate.kept and fate.kept not in (("new",), ("young",), ("young", "new")):
            click.echo(f"  stays  release {fate.release}: {', '.join(fate.kept)}")
    for fate in plan.doomed:
        click.echo(f"  goes   release {fate.release} of {fate.created}, {size_text(fate.size)}")
    what = f"{len(plan.doomed)} go and free {size_text(plan.freed)}" if plan.doomed else "nothing to remove"
    click.echo(f"  {stays} of {len(plan.fates)} releases stay; {what}")


# Workspace --------------------------------------------------------------------------------------------------------------


def _workspace(folder: str, max_size: str | None, older_than: str | None, grace: str | None, asking: _Asking) -> None:
    from enginepress.cli.options import open_workspace
    from enginepress.errors import UsageError
    from enginepress.quantities import parse_duration, parse_size, size_text
    from enginepress.steps.prune_workspace import GRACE_SECONDS, plan_workspace, prune_workspace

    if max_size is None and older_than is None:
        raise UsageError("does not say what may stay", fix="say `--max-size 100GB`, `--older-than 30d` or both")
    plan = plan_workspace(
        open_workspace(folder),
        max_size=parse_size(max_size) if max_size is not None else None,
        older_than=parse_duration(older_than) if older_than is not None else None,
        grace=parse_duration(grace) if grace is not None else GRACE_SECONDS,
    )
    if not asking.as_json:
        _show_workspace(plan)
    removed = []
    if plan.doomed and asking.agreed(f"Remove {len(plan.doomed)} outputs and free {size_text(plan.freed)}?"):
        removed = prune_workspace(plan)
        if not asking.as_json:
            click.echo(f"{len(removed)} outputs removed, {size_text(sum(item.size for item in removed))} freed")
    if asking.as_json:
        click.echo(json.dumps({**plan.to_json(), "removed": [str(item.path) for item in removed]}, indent=2))


def _show_workspace(plan: WorkspacePlan) -> None:
    import time

    from enginepress.quantities import size_text

    for item in plan.items:
        if item.fate:
            days = (time.time() - item.used) / 86_400
            word = "goes " if item.goes else "stays"
            click.echo(f"  {word}  {item.kind}/{item.key[:16]}  {size_text(item.size)}, unused for {days:.1f} days: {item.fate}")
    click.echo(f"  {size_text(plan.total)} in {len(plan.items)} outputs; {len(plan.doomed)} go and free {size_text(plan.freed)}")
