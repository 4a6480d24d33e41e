"""enginepress in a notebook, or in any Python: `import enginepress as ep`, then `ep.plan`, `ep.run`, `ep.submit`, `ep.releases`,
`ep.promote`, `ep.rollback`.

Every function takes a recipe as a file, as a mapping with a recipe's keys, or as a `Recipe`. What it gives shows itself: as HTML
where there is a notebook, as plain text elsewhere. Nothing here decides anything: it is what the command line calls, too.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from enginepress.compile_options import CompileOptions
    from enginepress.notebook.plans import Comparison, Plan
    from enginepress.notebook.release_table import Releases
    from enginepress.notebook.runs import Run
    from enginepress.notebook.submitted import Submitted
    from enginepress.recipe import Recipe
    from enginepress.workspace import Workspace

    AnyRecipe: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Recipe

__all__ = ["plan", "promote", "releases", "rollback", "run", "submit"]


def plan(recipe: AnyRecipe, *, gpu: str | None = None, driver: str | None = None) -> Plan | Comparison:
    """What a recipe takes, and whether it fits. Reads config.json and the sizes of files, and downloads nothing else.

    Args:
        recipe: a file, a mapping or a Recipe.
        gpu: another GPU than the recipe's; `all` compares all that are known.
        driver: of the machines, as nvidia-smi prints it.

    Raises:
        EnginepressError: if there can be no plan. That it does not fit is no error: the plan says so.
    """
    from enginepress.notebook.plans import Comparison, Plan
    from enginepress.steps.plan import compare, plan_recipe

    loaded = _recipe(recipe, need_reference=False)
    if gpu == "all":
        return Comparison(loaded.name, compare(loaded, driver=driver))
    return Plan(plan_recipe(loaded, gpu=gpu, driver=driver))


def run(
    recipe: AnyRecipe,
    *,
    workspace: str | os.PathLike[str] | None = None,
    force: bool = False,
    background: bool = False,
    progress: bool = True,
) -> Run:
    """Builds, gates, publishes and registers what a recipe says on this machine, or finds that nothing is to do.

    Args:
        workspace: folder for downloads, engines and reports; default as for the command line.
        force: build and gate again even if nothing has changed.
        background: return at once; `run.wait()` or `await run` waits, `run.stop()` ends it.
        progress: show the steps while they work.

    Raises:
        EnginepressError: what the first failing step raised.
        KeyboardInterrupt: if it was interrupted; nothing of the run works any more then, and what is finished is kept.
    """
    from enginepress.notebook.runs import started

    loaded = _recipe(recipe)
    return started(loaded, _workspace(workspace), force=force, background=background, progress=progress)


def submit(
    recipe: AnyRecipe,
    *,
    host: str | None = None,
    namespace: str | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    token_command: str | None = None,
    cookie_file: str | os.PathLike[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    ui: str | None = None,
    experiment: str | None = None,
    service_account: str | None = None,
    image: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    options: CompileOptions | None = None,
    force: bool = False,
    again: bool = False,
    plan: bool = True,
    background: bool = False,
    progress: bool = True,
) -> Submitted:
    """Plans a recipe and submits it to Kubeflow Pipelines, once, and follows it. Interrupting leaves the run as it is.

    Args:
        host, namespace, token, token_file, token_command, cookie_file, ca, ui, experiment, service_account: as
            `enginepress submit`; by default from the environment.
        image: of the steps, as NAME@sha256:…; default: of `options`, or $ENGINEPRESS_IMAGE.
        parameters: of the pipeline, beside the recipe.
        options: what else is fixed when the pipeline is compiled.
        force: build and gate again even if nothing has changed.
        again: submit although a run that builds the same has not ended.
        plan: False to leave the source alone from here; the run's first step plans anyway.
        background: return as soon as it is submitted; `wait()` or `await` follows it.
        progress: show the steps while they work, and tell when a request is tried again.

    Raises:
        EnginepressError: if the recipe does not fit, Kubeflow refuses, or the run fails.
    """
    from dataclasses import replace

    from enginepress.compile_options import CompileOptions
    from enginepress.notebook.submitted import Submitted, tell
    from enginepress.run.cluster import EXPERIMENT
    from enginepress.run.cluster import submit as send
    from enginepress.run.connection import connect
    from enginepress.run.reach import check_image, check_plan, check_reach

    connection = connect(
        host,
        namespace=namespace,
        token=token,
        token_file=_path(token_file),
        token_command=token_command,
        cookie_file=_path(cookie_file),
        ca=_path(ca),
        ui=ui,
    )
    loaded, chosen = _recipe(recipe), options or CompileOptions()
    if image is not None:
        chosen = replace(chosen, image=image)
    say = tell if progress else lambda text: None
    check_image(chosen, parameters or {})
    check_reach(loaded, chosen)
    if plan:
        check_plan(loaded, tell=say, without="submit with plan=False")
    sent = send(
        loaded,
        connection,
        chosen,
        parameters=parameters,
        experiment=experiment or EXPERIMENT,
        service_account=service_account,
        force=force,
        again=again,
        tell=say,
    )
    submitted = Submitted(loaded, sent, progress=progress)
    return submitted if background else submitted.wait()


def releases(target: AnyRecipe) -> Releases:
    """What is published of a model, and which channel is where.

    Args:
        target: a recipe, or STORE/MODEL such as file:///srv/models/tiny-llama.
    """
    return _releases(_target(target), "")


def promote(
    target: AnyRecipe,
    release: int,
    *,
    channel: str,
    why: str = "",
    new: bool = False,
    workspace: str | os.PathLike[str] | None = None,
) -> Releases:
    """Points a channel to a release, in every store of the recipe, and MLflow's alias.

    Args:
        new: make the channel, though its name is close to that of one that is there.
        why: kept in the channel's history.

    Raises:
        EnginepressError: no such release, or it may not go there.
    """
    from enginepress.steps.promote import is_new_channel, move_channel, operator
    from enginepress.steps.register import default_tracking_uri

    recipe = _target(target)
    is_new_channel(recipe, channel, meant=new)
    uri = default_tracking_uri(_workspace(workspace))
    with _without_widgets():
        move_channel(recipe, channel, release, who=operator(), why=why or "promoted in a notebook", default_uri=uri)
    return _releases(recipe, f"channel {channel} is on release {release}")


def rollback(
    target: AnyRecipe,
    *,
    channel: str,
    to: int | None = None,
    why: str = "",
    workspace: str | os.PathLike[str] | None = None,
) -> Releases:
    """Points a channel back to the release it was on before, or to the one that `to` names.

    Raises:
        EnginepressError: if there is none to go back to.
    """
    from enginepress.steps.promote import operator, roll_back
    from enginepress.steps.register import default_tracking_uri

    recipe = _target(target)
    uri = default_tracking_uri(_workspace(workspace))
    with _without_widgets():
        number = roll_back(recipe, channel, to=to, who=operator(), why=why or "rolled back in a notebook", default_uri=uri)
    return _releases(recipe, f"channel {channel} is back on release {number}")


@contextlib.contextmanager
def _without_widgets() -> Iterator[None]:
    """Without the warning of mlflow's progress bars that they would be prettier with ipywidgets: none is shown here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


def _releases(recipe: Recipe, said: str) -> Releases:
    from enginepress.notebook.release_table import Releases
    from enginepress.steps.overview import overview

    return Releases(recipe.name, recipe.stores[0].url, overview(recipe), said)


def _recipe(recipe: AnyRecipe, *, need_reference: bool = True) -> Recipe:
    from enginepress.recipe import Recipe
    from enginepress.recipe_file import load_recipe, recipe_of

    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_of(recipe, Path.cwd(), need_reference=need_reference)
    return load_recipe(Path(recipe), need_reference=need_reference)


def _target(target: AnyRecipe) -> Recipe:
    from enginepress.cli.options import load_target

    if isinstance(target, (str, os.PathLike)):
        return load_target(os.fspath(target))
    return _recipe(target, need_reference=False)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return Path(path) if path is not None else None


def _workspace(folder: str | os.PathLike[str] | None) -> Workspace:
    from enginepress.cli.options import default_workspace, open_workspace

    return open_workspace(os.fspath(folder) if folder is not None else default_workspace())
