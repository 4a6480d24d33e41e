"""Runs on Kubeflow: submitted once, followed, cancelled.

    uploaded pipeline ─► version named by the YAML's digest ─► one run a submission ─► followed until it ends

A run is never submitted twice. Its name carries what is built (a digest of recipe, pipeline and parameters) and a mark of this
submission. Before anything is sent, a run that builds the same and has not ended is looked for, and taken if there is one;
after an answer that was lost, one with this submission's own name.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_server_api import models

from enginepress.canonical import json_digest
from enginepress.compile_options import CompileOptions
from enginepress.errors import ClusterError, UsageError
from enginepress.recipe import Recipe
from enginepress.recipe_file import travelling_json
from enginepress.run.api import Api, Tell, Trouble, said
from enginepress.run.connection import Connection, pod_namespace
from enginepress.run.packages import Package, package_of
from enginepress.run.parameters import check_given
from enginepress.run.run_state import RunState, read_run

EXPERIMENT = "enginepress"
FIRST_POLL_S, LAST_POLL_S = 1.0, 10.0
"""Seconds between looks at a run: the older it is, the longer."""
PATIENCE_S = 900.0
"""Seconds without any answer after which following ends; the run goes on."""
LONGEST_RECIPE = 100 * 1024
"""Bytes: a parameter goes through command lines on the cluster, which take 128 KiB with all that is around it."""


@dataclass(frozen=True)
class ClusterRun:
    """A run on Kubeflow.

    Attributes:
        id: by which Kubeflow knows it.
        name: by which people see it.
        url: where people look at it.
        found: it was running already, and nothing was submitted.
    """

    api: Api
    id: str
    name: str
    url: str
    found: bool = False

    def state(self) -> RunState:
        """How it stands now.

        Raises:
            ClusterError: if that cannot be had.
        """
        return read_run(self.api.call(f"look at the run {self.id}", self.api.runs.run_service_get_run, self.id))

    def progress(
        self, *, poll_s: float | None = None, patience_s: float = PATIENCE_S, tell: Tell | None = None
    ) -> Iterator[RunState]:
        """Each state of the run that differs from the one before, until it has ended. Lost connections are taken up again.

        Args:
            poll_s: seconds between looks; default: few at first, more later.
            patience_s: seconds without an answer after which this gives up.
            tell: gets a line when the connection is lost, and when it is back.

        Raises:
            ClusterError: if Kubeflow refuses, or does not answer for too long. The run goes on.
        """
        last, started = None, time.monotonic()
        silent: float | None = None
        renewed = False
        while True:
            try:
                state = read_run(self.api.attempt(self.api.runs.run_service_get_run, self.id))
            except Trouble as trouble:
                now = time.monotonic()
                silent = now if silent is None else silent
                if trouble.unknown_to_it and not renewed and self.api.renewed():
                    renewed = True
                    continue
                if not trouble.passing or now - silent > patience_s:
                    raise self._left(trouble) from None
                if tell is not None and now == silent:
                    tell(f"the connection to Kubeflow is lost ({said(trouble)}); the run goes on; trying again")
                time.sleep(max(self._pause(started, poll_s), trouble.wait))
                continue
            if silent is not None and tell is not None:
                tell("the connection to Kubeflow is back")
            silent, renewed = None, False
            if state != last:
                yield state
            if state.ended:
                return
            last = state
            time.sleep(self._pause(started, poll_s))

    def _pause(self, started: float, poll_s: float | None) -> float:
        return poll_s if poll_s is not None else min(LAST_POLL_S, max(FIRST_POLL_S, (time.monotonic() - started) / 30))

    def _left(self, trouble: Trouble) -> ClusterError:
        error = self.api.explained(trouble, f"follow the run {self.id}, which goes on")
        again = f"enginepress status {self.id} --follow{self.api.connection.command_options()}"
        return ClusterError(error.message, where=error.where, fix=f"{error.fix}; then follow it again: `{again}`")

    def wait(self, *, poll_s: float | None = None) -> RunState:
        """The state in which it has ended.

        Raises:
            ClusterError: as `progress`.
        """
        *_, last = self.progress(poll_s=poll_s)
        return last

    def cancel(self) -> RunState:
        """Asks Kubeflow to end it; a run that has ended stays as it is.

        Returns:
            How it stands after that.
        """
        state = self.state()
        if state.ended or state.state == "CANCELING":
            return state
        try:
            self.api.call(f"cancel the run {self.id}", self.api.runs.run_service_terminate_run, self.id)
        except ClusterError:
            state = self.state()  # it may have ended, or an answer was lost and the second request came too late
            if not (state.ended or state.state == "CANCELING"):
                raise
            return state
        return self.state()


def submit(
    recipe: Recipe,
    connection: Connection,
    options: CompileOptions | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    experiment: str = EXPERIMENT,
    service_account: str | None = None,
    force: bool = False,
    again: bool = False,
    package: Package | None = None,
    tell: Tell | None = None,
    api: Api | None = None,
) -> ClusterRun:
    """Submits a recipe to Kubeflow, once. Nothing is planned here: `enginepress.steps.plan` does that.

    Args:
        options: what is fixed when the pipeline is compiled.
        parameters: of the run, beside the recipe: `package_of(...).parameters` says which there are.
        force: build and gate again even if that was done.
        again: submit although a run that builds the same has not ended.
        package: the compiled pipeline, if it is there already.
        tell: gets a line whenever a request is tried again.

    Raises:
        UsageError: for parameters that the pipeline does not have, or a missing namespace.
        ClusterError: if Kubeflow cannot be reached, or refuses.
    """
    package = package or package_of("build_and_publish", options or CompileOptions())
    values = run_parameters(package, recipe, parameters or {}, force=force)
    api = api or Api(connection, tell=tell)
    place = open_place(api, experiment)
    same = json_digest([package.digest, {**values, "force": force}])[:8]
    prefix = f"{recipe.name}-{same}-"
    if not again and (running := first_running(place, prefix)) is not None:
        return ClusterRun(api, running.run_id, running.display_name, connection.run_url(running.run_id), found=True)
    reference = upload(place, package)
    name = prefix + secrets.token_hex(4)
    body = models.V2beta1Run(
        experiment_id=place.experiment_id,
        display_name=name,
        description=f"{recipe.source.uri} by {recipe.engine.builder}, submitted with enginepress",
        pipeline_version_reference=reference,
        runtime_config=models.V2beta1RuntimeConfig(parameters=values),
        service_account=service_account,
    )
    run = create_run_once(place, body)
    if not again and (first := first_running(place, prefix)) is not None and first.run_id != run.run_id:
        # Somebody submitted the same between our look and our run.
        api.call("cancel what was submitted twice", api.runs.run_service_terminate_run, run.run_id)
        return ClusterRun(api, first.run_id, first.display_name, connection.run_url(first.run_id), found=True)
    return ClusterRun(api, run.run_id, name, connection.run_url(run.run_id))


def find_run(connection: Connection, which: str, *, api: Api | None = None, experiment: str = EXPERIMENT) -> ClusterRun:
    """A run by its id, by the address of its page, or by its name; of several runs of one name the newest.

    Raises:
        ClusterError: if there is none.
    """
    api = api or Api(connection)
    which = which.strip().rstrip("/").rpartition("/runs/details/")[2].partition("?")[0]
    try:
        run = api.attempt(api.runs.run_service_get_run, which)
    except Trouble as trouble:
        if trouble.status not in (400, 404):
            run = api.call(f"look at the run {which}", api.runs.run_service_get_run, which)
        else:
            run = next(iter(_named(open_place(api, experiment, create=False), which)), None)
    if run is None or not run.run_id:
        raise ClusterError(
            f"there is no run '{which}'",
            where=connection.host,
            fix=f"`enginepress status{connection.command_options()}` lists runs",
        )
    return ClusterRun(api, run.run_id, run.display_name or run.run_id, connection.run_url(run.run_id), found=True)


def list_runs(connection: Connection, *, experiment: str = EXPERIMENT, count: int = 20, api: Api | None = None) -> list[RunState]:
    """The newest runs of an experiment, newest first."""
    place = open_place(api or Api(connection), experiment, create=False)
    if not place.experiment_id:
        return []
    listed = place.api.call(
        "list the runs",
        place.api.runs.run_service_list_runs,
        experiment_id=place.experiment_id,
        page_size=count,
        sort_by="created_at desc",
    )
    return [read_run(run) for run in listed.runs or ()]


# Places ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An experiment of a Kubeflow installation. `namespace` is None where there is only one."""

    api: Api
    namespace: str | None
    experiment_id: str


def open_place(api: Api, experiment: str, *, create: bool = True) -> Place:
    """The experiment of this name, created if it is not there and `create`; else its id is empty.

    Raises:
        UsageError: if the installation serves several namespaces and none is known.
        ClusterError: if it cannot be had.
    """
    health = api.call("ask Kubeflow how it is", api.health.healthz_service_get_healthz)
    namespace = api.connection.namespace or pod_namespace() if health.multi_user else None
    if health.multi_user and namespace is None:
        raise UsageError(
            "this Kubeflow serves several namespaces, and none was named", where=api.connection.host, fix="give --namespace NAME"
        )

    def find() -> Any:
        listed = api.call(
            "look for the experiment",
            api.experiments.experiment_service_list_experiments,
            filter=named(experiment),
            **({"namespace": namespace} if namespace else {}),
        )
        return next(iter(listed.experiments or ()), None)

    found = find()
    if found is None and create:
        body = models.V2beta1Experiment(display_name=experiment, namespace=namespace)
        found, _ = api.once("create the experiment", api.experiments.experiment_service_create_experiment, body, find=find)
    return Place(api, namespace, found.experiment_id if found is not None else "")


def upload(place: Place, package: Package) -> Any:
    """The version of the pipeline with this YAML: the one that is there, else a new one."""
    api, namespace = place.api, place.namespace

    def find_pipeline() -> Any:
        listed = api.call(
            "look for the pipeline",
            api.pipelines.pipeline_service_list_pipelines,
            filter=named(package.name),
            **({"namespace": namespace} if namespace else {}),
        )
        return next(iter(listed.pipelines or ()), None)

    pipeline = find_pipeline()
    if pipeline is None:
        body = models.V2beta1Pipeline(
            display_name=package.name,
            namespace=namespace,
            description="Compiled and uploaded by enginepress; versions are named by digest.",
        )
        pipeline, _ = api.once("create the pipeline", api.pipelines.pipeline_service_create_pipeline, body, find=find_pipeline)

    def find_version() -> Any:
        listed = api.call(
            "look for the pipeline's version",
            api.pipelines.pipeline_service_list_pipeline_versions,
            pipeline.pipeline_id,
            filter=named(package.version),
        )
        return next(iter(listed.pipeline_versions or ()), None)

    version = find_version()
    if version is None:
        with tempfile.TemporaryDirectory(prefix="enginepress-upload-") as folder:
            path = Path(folder) / f"{package.pipeline}.yaml"
            path.write_text(package.text, encoding="utf-8")
            version, _ = api.once(
                "upload the pipeline",
                api.uploads.upload_pipeline_version,
                str(path),
                name=package.version,
                pipelineid=pipeline.pipeline_id,
                description=f"sha256 {package.digest}",
                find=find_version,
            )
    return models.V2beta1PipelineVersionReference(
        pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def create_run_once(place: Place, body: Any) -> Any:
    """Creates a run whose name no other run has. Should a lost request take effect after all, beside the one that was sent
    again, the younger of both is cancelled."""
    api = place.api
    run, lost = api.once(
        "submit the run",
        api.runs.run_service_create_run,
        body,
        find=lambda: next(iter(_oldest_first(place, body.display_name)), None),
    )
    if lost:
        first, *rest = _oldest_first(place, body.display_name) or [run]
        for other in rest:
            api.call("cancel what was submitted twice", api.runs.run_service_terminate_run, other.run_id)
        return first
    return run


def named(name: str, operation: str = "EQUALS") -> str:
    """A filter as the API wants it."""
    return json.dumps({"predicates": [{"operation": operation, "key": "display_name", "stringValue": name}]})


def _named(place: Place, name: str) -> list[Any]:
    """The runs of this name, newest first."""
    if not place.experiment_id:
        return []
    listed = place.api.call(
        "look for the run",
        place.api.runs.run_service_list_runs,
        experiment_id=place.experiment_id,
        filter=named(name),
        sort_by="created_at desc",
    )
    return list(listed.runs or ())


def _oldest_first(place: Place, name: str) -> list[Any]:
    return _named(place, name)[::-1]


def first_running(place: Place, prefix: str) -> Any:
    """The oldest run whose name starts so, and that has neither ended nor is about to."""
    listed = place.api.call(
        "look for a run that does the same",
        place.api.runs.run_service_list_runs,
        experiment_id=place.experiment_id,
        filter=named(prefix, "IS_SUBSTRING"),
        sort_by="created_at desc",
        page_size=100,
    )
    running = [r for r in listed.runs or () if (r.display_name or "").startswith(prefix) and read_run(r).at_work]
    return min(running, key=lambda r: (r.created_at, r.run_id), default=None)


def run_parameters(package: Package, recipe: Recipe, given: Mapping[str, Any], *, force: bool = False) -> dict[str, Any]:
    """The parameters of a run: the recipe's, and those that were given.

    Raises:
        UsageError: for parameters that the pipeline does not have or still needs, values that cannot be, and a recipe that is
            too long to be one.
    """
    text = travelling_json(recipe)
    if len(text.encode()) > LONGEST_RECIPE:
        raise UsageError(
            f"the recipe and its reference have {len(text.encode()) // 1024} KiB; a parameter takes {LONGEST_RECIPE // 1024}",
            where=recipe.name,
            fix="make a reference of fewer or shorter prompts, or put the recipe where `enginepress schedule` finds it",
        )
    own = {"recipe": text, "recipe_digest": recipe.digest(), "force": force}
    check_given(package, given, own=own)
    values = {**{name: value for name, value in own.items() if name in package.parameters}, **given}
    missing = [name for name, one in package.parameters.items() if one.required and name not in values]
    if missing:
        raise UsageError(f"the pipeline needs {', '.join(missing)}", where="parameters", fix=f"give --set {missing[0]}=VALUE")
    return values
