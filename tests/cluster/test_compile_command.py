"""`enginepress compile`: what it writes, what it says, how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from enginepress.compile_options import CompileOptions, Mount
from enginepress.run.compiled import PIPELINES, compile_pipeline
from tests.cluster.compiled import IMAGE

ROOT = Path(__file__).parents[2]


def _compile(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "enginepress", "compile", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_writes_what_the_library_compiles(tmp_path: Path) -> None:
    done = _compile(
        "-o", tmp_path, "--image", IMAGE, "--mount", "checkpoints:/mnt/checkpoints", "--scratch", "1Ti", "--retries", "0"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{tmp_path}/{name}.yaml" for name in PIPELINES]
    assert done.stderr == ""
    options = CompileOptions(image=IMAGE, mounts=(Mount("checkpoints", "/mnt/checkpoints"),), scratch="1Ti", retries=0)
    for name in PIPELINES:
        assert (tmp_path / f"{name}.yaml").read_text() == compile_pipeline(name, options)


def test_an_image_without_a_digest_is_pointed_out(tmp_path: Path) -> None:
    done = _compile("-o", tmp_path, "--image", "site/enginepress:1")
    assert done.returncode == 0
    assert "names no digest" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--scratch", "much"), "'much' is no size"),
        (("--store-path", "/workspace/x"), "mounts /workspace/x inside /workspace"),
        (("--mount", "nowhere"), "write PVC:PATH"),
        (("--parallelism", "0"), "--parallelism: is 1 to 1000"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = _compile("-o", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_option_that_is_fixed_at_compile_time_can_be_given() -> None:
    from enginepress.cli.compile import compile as command

    given = {p.name for p in command.params}
    missing = {f.name for f in fields(CompileOptions)} - given
    assert missing == {"report", "recipes_path"}, "whether it reports, and where recipes are mounted, is for no user to say"


def test_the_docs_name_every_parameter_and_option() -> None:
    text = (ROOT / "docs" / "kubeflow.md").read_text()
    for name in PIPELINES:
        root = next(yaml.safe_load_all(compile_pipeline(name, CompileOptions(image=IMAGE))))["root"]
        for parameter in root["inputDefinitions"]["parameters"]:
            assert f"`{parameter}`" in text, parameter
    from enginepress.cli.compile import compile as command

    for option in command.params:
        flag = next(o for o in option.opts if o.startswith("--"))
        if flag not in ("--output", "--http-proxy"):
            assert re.search(rf"{flag}\b", text), flag
