"""`enginepress schema`: the recipe's JSON Schema."""

from __future__ import annotations

import json

import click


@click.command(short_help="Print the recipe's JSON Schema.")
def schema() -> None:
    """Print the recipe's JSON Schema, for editors and checks.

    In VS Code: save it, and put `# yaml-language-server: $schema=FILE` at the top of a recipe.
    """
    from enginepress.recipe_file import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))
