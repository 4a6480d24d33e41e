"""Commands that an error names are what one would type: with the recipe or the store and the workspace that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from enginepress.cli import promote, run
from enginepress.cli.app import app
from enginepress.errors import EnginepressError, StoreError


def _fix_of(monkeypatch: pytest.MonkeyPatch, arguments: list[str], fix: str) -> str | None:
    """What to do next, as a command says it that fails with this."""

    def fail(*_: object, **__: object) -> None:
        raise StoreError("is broken", fix=fix)

    monkeypatch.setattr(promote, "load_target", fail)
    monkeypatch.setattr(run, "open_workspace", fail)
    failure = CliRunner().invoke(app, arguments, standalone_mode=False).exception
    assert isinstance(failure, EnginepressError), failure
    return failure.fix


@pytest.mark.parametrize(
    ("target", "fix", "wanted"),
    [
        ("my.yaml", "`enginepress doctor TARGET --repair` mends it", "`enginepress doctor my.yaml --repair -w ws` mends it"),
        ("my.yaml", "`enginepress run --force` does", "`enginepress run my.yaml --force -w ws` does"),
        ("my.yaml", "`enginepress releases` lists them", "`enginepress releases my.yaml` lists them"),
        ("a b.yaml", "`enginepress lock RECIPE`", "`enginepress lock 'a b.yaml' -w ws`"),
        ("/srv/tiny", "`enginepress promote TARGET 2 -c x`", "`enginepress promote /srv/tiny 2 -c x -w ws`"),
        ("/srv/tiny", "`enginepress verify STORE` says", "`enginepress verify /srv/tiny` says"),
        ("/srv/tiny", "`enginepress lock RECIPE` pins it", "`enginepress lock RECIPE` pins it"),
        ("my.yaml", "`enginepress verify file:///other` says", "`enginepress verify file:///other` says"),
        ("my.yaml", "`enginepress sign STORE MODEL 2 --key FILE`", "`enginepress sign STORE MODEL 2 --key FILE`"),
        ("my.yaml", "`enginepress schema` prints every field", "`enginepress schema` prints every field"),
        ("my.yaml", "`enginepress nothing TARGET`", "`enginepress nothing TARGET`"),
    ],
)
def test_a_command_in_a_message_is_completed_with_what_was_typed(
    target: str, fix: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my.yaml", "a b.yaml"):
        Path(name).write_text("")
    assert _fix_of(monkeypatch, ["promote", target, "1", "-c", "production", "-w", "ws"], fix) == wanted


def test_a_workspace_that_was_not_typed_is_not_put_into_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEPRESS_WORKSPACE", str(tmp_path))
    fix = _fix_of(monkeypatch, ["promote", "/srv/tiny", "1", "-c", "production"], "`enginepress doctor TARGET --repair`")
    assert fix == "`enginepress doctor /srv/tiny --repair`"


def test_a_recipe_is_a_target_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: tiny\nsource: file:///x\nstores: [file://{tmp_path}/store]\n")
    fix = _fix_of(monkeypatch, ["run", str(recipe), "--workspace", "ws"], "`enginepress doctor TARGET` looks")
    assert fix == f"`enginepress doctor {recipe} -w ws` looks"
