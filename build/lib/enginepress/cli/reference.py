"""`enginepress reference`: the answers that a build is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import click

from enginepress.cli.options import open_workspace, recipe_argument, workspace_option


@click.command(short_help="Write the answers to compare with.")
@recipe_argument
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write. Default: what the recipe names.")
@workspace_option
def reference(recipe: Path, output: Path | None, workspace: str) -> None:
    """Write the answers that transformers gives to RECIPE's prompts, in float32 from the unquantized checkpoint.

    The gate compares with them and then needs neither torch nor the checkpoint. Keep the file beside the recipe.
    """
    from enginepress.recipe_file import load_recipe, named_reference
    from enginepress.steps.reference import reference_of

    loaded = load_recipe(recipe, need_reference=False)
    target = output or named_reference(recipe)
    content = reference_of(loaded, open_workspace(workspace), beside=target.parent)
    from enginepress.files import write_atomic

    write_atomic(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    click.echo(f"wrote {target}: {len(content['answers'])} answers from {content['source']}")
