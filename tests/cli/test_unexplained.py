"""What nobody further down explains still ends in words that say what to do, and in no traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from enginepress.unexplained import explain
from tests.run.recipes import enginepress

LAPTOP = Path(__file__).parents[2] / "examples" / "recipes" / "laptop.yaml"

# What stands in for an environment without a package: a module finder that knows none of that name.
WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
"""


def without(folder: Path, *packages: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(WITHOUT.format(packages=packages))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.mark.parametrize(
    "command",
    [("compile", "-o", "compiled"), ("status",), ("logs", "x"), ("schedule", "--list"), ("submit", "{recipe}", "--no-plan")],
    ids=lambda c: str(c[0]),
)
def test_a_command_whose_extra_is_missing_names_it(tmp_path: Path, command: tuple[str, ...]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: tiny\nsource: hf://org/name\nengine: {builder: onnxruntime}\nstores: ['s3://bucket/models']\n")
    host = {"KF_PIPELINES_ENDPOINT": "http://localhost:1", "ENGINEPRESS_IMAGE": "registry.example/enginepress:1"}
    words = [word.format(recipe=recipe) for word in command]
    done = enginepress(*words, env={**host, **without(tmp_path, "kfp", "kfp_server_api")})
    assert done.returncode == 1
    assert "is not installed here" in done.stderr
    assert "pip install 'enginepress[kfp]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_pipelines_that_cannot_be_written_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = enginepress("compile", "-o", tmp_path / "file" / "compiled")
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_package_that_does_not_fit_is_named() -> None:
    error = explain(ImportError("cannot import name 'kubernetes' from 'kfp'", name="kfp"))
    assert error is not None
    assert "'kubernetes'" in str(error)
    assert error.fix == "pip install 'enginepress[kfp]'"


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    assert explain(ImportError("cannot import name 'x'", name="enginepress.files")) is None
    assert explain(OSError(errno.EBADF, "Bad file descriptor")) is None


@pytest.mark.parametrize("target", ["s3://", "s3://x/y", "foo://bar/baz", "http://x/y", "/tmp", "s3://xyz"])
@pytest.mark.parametrize(
    "command", [("releases",), ("doctor",), ("rollback", "--channel", "production")], ids=lambda c: str(c[0])
)
def test_what_is_no_model_in_a_store_is_said_so(command: tuple[str, ...], target: str) -> None:
    done = enginepress(command[0], target, *command[1:])
    assert done.returncode == 2
    assert f"{target}: is neither a recipe file nor STORE/MODEL" in done.stderr
    assert "s3://bucket/folder/tiny-llama" in done.stderr


def test_a_watcher_that_finds_no_recipe_says_so(tmp_path: Path) -> None:
    done = enginepress("watch", tmp_path, "--once", "--workspace", tmp_path / "workspace")
    assert done.returncode == 0
    assert "no recipes there: name recipe files, or folders that hold some" in done.stdout


def test_a_recipe_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    done = enginepress("outdated", tmp_path / "gone.yaml", "--workspace", tmp_path / "workspace")
    assert done.returncode == 1
    assert done.stderr.count("gone.yaml") == 1


def test_a_workspace_that_is_no_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = enginepress("lock", LAPTOP, "--workspace", tmp_path / "file")
    assert done.returncode == 1
    assert "next:  something that is no folder stands there: name another place" in done.stderr


def test_a_watched_build_without_kfp_names_the_extra_and_no_bug(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        LAPTOP.read_text().replace("file://..", f"file://{LAPTOP.parent.parent}").replace(": ../", f": {LAPTOP.parent.parent}/")
    )
    recipe.write_text(recipe.read_text().replace(f"file://{LAPTOP.parent.parent}/../var", f"file://{tmp_path}"))
    done = enginepress("watch", recipe, "--once", "--workspace", tmp_path / "workspace", env=without(tmp_path, "kfp"))
    assert done.returncode == 1
    assert "pip install 'enginepress[kfp]'" in done.stderr
    assert "report it" not in done.stderr
