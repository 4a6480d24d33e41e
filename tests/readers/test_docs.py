"""Every command in the readers' docs is one that the command line takes, and the manifests are manifests."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from enginepress.cli.app import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["readers.md", "several_models.md"]


def _blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for tongue, text in found if tongue == language]


def _commands(page: str) -> list[list[str]]:
    lines = [line for block in _blocks(page, "") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("enginepress ")]


def _parse(arguments: list[str]) -> dict[str, Any]:
    """What the command is called with. Raises for an option that it does not have."""
    name, *rest = arguments
    command: click.Command = getattr(importlib.import_module(COMMANDS[name]), name)
    return command.make_context(name, rest).params


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_there_is(page: str) -> None:
    commands = _commands(page)
    assert len(commands) >= 4
    for arguments in commands:
        assert _parse(arguments)


def test_the_deployment_pulls_before_it_serves_what_was_pulled_and_follows_it() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (text,) = _blocks("readers.md", "yaml")
    deployment, service = yaml.safe_load_all(text)
    for document in (deployment, service):
        kubernetes_validate.validate(document, "1.30", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    first, follow = (_parse(c["args"]) for c in (pod["initContainers"][0], pod["containers"][1]))
    assert not first["watch"]
    assert follow["watch"]
    assert first["folder"] == follow["folder"]
    serve = pod["containers"][0]["args"]
    assert f"--model-repository={first['folder']}/current" in serve
    assert follow["triton"] == "http://localhost:8000"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == {"app": "triton"}
