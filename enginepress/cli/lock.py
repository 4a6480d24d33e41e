"""`enginepress lock`: pins a recipe's source to the bytes that it has now."""

from __future__ import annotations

import json
from pathlib import Path

import click

from enginepress.cli.options import json_option, open_workspace, recipe_argument, workspace_option


@click.command(short_help="Pin a recipe's source to the bytes that it has now.")
@recipe_argument
@click.option("--release", type=click.IntRange(min=1), help="Take the bytes that this release was built from.")
@workspace_option
@json_option
def lock(recipe: Path, release: int | None, workspace: str, as_json: bool) -> None:
    """Write RECIPE's lock beside it: the revision that its source means now, and the sha256 of every file.

    From then on RECIPE is built from these bytes and refuses others. Run it again to take what the source has by then. With
    --release the lock is the one that lies beside a release, as `enginepress watch` builds them.
    """
    from enginepress.quantities import size_text
    from enginepress.steps.lock import lock_from_release, lock_recipe

    if release is not None:
        done = lock_from_release(recipe, release)
    else:
        done = lock_recipe(recipe, open_workspace(workspace), say=lambda text: click.echo(text, err=True))
    revision = done.lock.revision
    if as_json:
        facts = {"path": str(done.path), "uri": done.lock.uri, "id": revision.id, "files": len(revision.files)}
        click.echo(json.dumps({**facts, "changes": done.changes}, indent=2))
        return
    total = sum(f.size for f in revision.files)
    click.echo(f"locked {done.lock.uri} to {revision.id[:12]}: {len(revision.files)} files, {size_text(total)}, in {done.path}")
    if done.changes is not None:
        click.echo("\n".join(done.changes) if done.changes else "nothing has changed since the last lock")
