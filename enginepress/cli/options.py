"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginepress.cli.typed import remembered

if TYPE_CHECKING:
    from enginepress.recipe import Recipe
    from enginepress.signing import Trust
    from enginepress.workspace import Workspace

Command = Callable[..., Any]


def default_workspace() -> str:
    """`$ENGINEPRESS_WORKSPACE`, or a folder in the user's cache."""
    from enginepress.files import user_cache

    return os.environ.get("ENGINEPRESS_WORKSPACE") or str(user_cache() / "enginepress")


def _named_workspace(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """`-w "$NOT_SET"` would fill the folder that one happens to stand in."""
    if not value.strip():
        raise click.BadParameter("names no folder", ctx, param)
    return str(remembered(ctx, param, value))


def workspace_option(command: Command) -> Command:
    return click.option(
        "--workspace",
        "-w",
        default=default_workspace,
        show_default="$ENGINEPRESS_WORKSPACE or ~/.cache/enginepress",
        metavar="DIR",
        callback=_named_workspace,
        help="Folder for downloads, engines and reports.",
    )(command)


def recipe_argument(command: Command) -> Command:
    return click.argument("recipe", type=click.Path(path_type=Path), callback=remembered)(command)


def target_argument(command: Command) -> Command:
    return click.argument("target", callback=remembered)(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def trust_options(command: Command) -> Command:
    """`--public-key` and `--trusted-certificates`; `given_trust` reads them."""
    command = click.option(
        "--trusted-certificates",
        envvar="ENGINEPRESS_TRUSTED_CERTIFICATES",
        type=click.Path(path_type=Path),
        show_envvar=True,
        help="Require signatures by whom these authorities (PEM) certify.",
    )(command)
    return click.option(
        "--public-key",
        envvar="ENGINEPRESS_PUBLIC_KEY",
        type=click.Path(path_type=Path),
        show_envvar=True,
        help="Require signatures by this key (PEM), whatever the recipe says.",
    )(command)


def given_trust(public_key: Path | None, trusted_certificates: Path | None) -> Trust | None:
    from enginepress.steps.signing import trust_from_files

    return trust_from_files(public_key, trusted_certificates)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, written as 30, 30s, 10m or 2h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        from enginepress.errors import UsageError
        from enginepress.quantities import parse_duration

        text = str(value)
        try:
            return parse_duration(f"{text}s" if text[-1:].isdecimal() else text)
        except UsageError:
            self.fail(f"{value!r} is no duration: write it as 30s, 10m or 2h", param, ctx)


def open_workspace(path: str) -> Workspace:
    from enginepress.workspace import Workspace

    return Workspace(Path(path).expanduser().absolute())


def load_target(target: str) -> Recipe:
    """TARGET is a recipe file, or STORE/MODEL, as `/srv/models/tiny-llama` or with file:// before it: its newest release holds
    its recipe.

    Raises:
        RecipeError: for a file that is no recipe.
        StoreError: for a store that holds no such model.
    """
    from enginepress.recipe_file import is_recipe_file, load_recipe

    if is_recipe_file(target):
        return load_recipe(Path(target), need_reference=False)
    from enginepress.steps.stored_recipe import stored_recipe

    return stored_recipe(target if "://" in target else f"file://{target}")
