"""docs/kubeflow.md against what it tells of: commands, options, parameters, manifests, and its recipe."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click

from enginepress.cli.compile import compile as compile_command
from enginepress.cli.schedule import schedule
from enginepress.cli.submit import submit
from enginepress.compile_options import KNOWN_SECRETS, CompileOptions
from enginepress.recipe_file import load_recipe
from enginepress.run.cluster import run_parameters
from enginepress.run.packages import read_package
from enginepress.run.reach import check_image, check_reach
from tests.cluster.compiled import IMAGE, compiled
from tests.cluster.manifests import DEPLOY, named, render

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubeflow.md").read_text()
SCRIPT = {"--base", "--tag", "--push", "--extras", "--wheels"}
KUBECTL = {"--server-side", "--from-literal", "--from-file", "--from", "--type"}


def _options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


def test_every_option_on_the_page_is_one() -> None:
    known = {name for command in (compile_command, submit, schedule) for name in _options(command)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known | SCRIPT | KUBECTL | {"--help"}
    script = (ROOT / "scripts" / "build_image.py").read_text()
    for option in SCRIPT:
        assert f'"{option}"' in script


def test_every_file_and_folder_on_the_page_is_there() -> None:
    for place in re.findall(r"\b(?:deploy|scripts)/[\w./-]*\w", PAGE):
        assert (ROOT / place).exists(), place


def test_the_parameters_on_the_page_are_those_of_a_run_with_their_defaults() -> None:
    parameters = compiled("build_and_publish").parameters
    table = PAGE.partition("### Parameters of a run")[2].partition("### What is fixed")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    told = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(told) == set(parameters)
    for name, default in told.items():
        plain = re.findall(r"`([^`]+)`", default)
        if plain and plain[0] not in told and "taint" not in default:
            assert any(parameters[name]["defaultValue"] == word or word == "enginepress-…" for word in plain), name


def test_the_defaults_on_the_page_are_those_of_compile() -> None:
    defaults = {f.name: f.default for f in fields(CompileOptions)}
    table = PAGE.partition("### What is fixed")[2].partition("## What each step gets")[0]
    for told in ("workspace", "store"):
        assert f"`{defaults[told]}`" in table
    assert f"{str(defaults['scratch']).removesuffix('Gi')} GiB on the node's own disk" in table
    assert f"{str(defaults['shared_memory']).removesuffix('Gi')} GiB" in table
    assert f"{defaults['parallelism']} recipes at a time" in table
    assert f"{defaults['retries']}; {defaults['timeout_h']} hours" in table


def test_the_secrets_on_the_page_are_read() -> None:
    section = PAGE.partition("**3. Secrets.**")[2].partition("**4. The pipelines.**")[0]
    known = {key for keys in KNOWN_SECRETS.values() for key in keys}
    for secret, keys in re.findall(r"secret generic enginepress-(\w+) (.*)", section):
        assert set(re.findall(r"--from-literal=(\w+)=", keys)) <= set(KNOWN_SECRETS[secret])
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", section)) - {"OUR_TOKEN"}
    assert told <= known


def test_the_recipe_on_the_page_can_be_submitted(tmp_path: Path) -> None:
    written = (
        PAGE.partition("## The first run")[2]
        .partition("```yaml\n")[2]
        .partition("```")[0]
        .replace("sha256:…", "sha256:" + "0" * 64)
    )
    (tmp_path / "recipe.yaml").write_text(written)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    options = CompileOptions(image=IMAGE)
    check_image(options, {})
    check_reach(recipe, options)
    package = read_package("build_and_publish", compiled("build_and_publish").text)
    assert run_parameters(package, recipe, {})["recipe_digest"] == recipe.digest()


def test_what_the_page_tells_to_start_and_to_patch_is_there() -> None:
    production = render(DEPLOY / "production")
    kubernetes = render(DEPLOY / "overlays" / "kubernetes")
    (target,) = re.findall(r"patch configmap (\S+)", PAGE)
    settings = named(production, "ConfigMap", target)
    patched = re.findall(r'"(target|release|channel|why)":', PAGE)
    assert set(patched) <= set(settings["data"])
    assert named(production, "CronJob", re.findall(r"--from=cronjob/(\S+)", PAGE)[0])
    assert named(kubernetes, "CronJob", re.findall(r"patch cronjob (\S+)", PAGE)[0])["spec"]["suspend"] is True
    assert named(kubernetes, "Job", re.findall(r"logs job/([\w-]+)", PAGE)[0])
    for account in re.findall(r"--service-account (\S+)", PAGE):
        assert named(kubernetes, "ServiceAccount", account)
