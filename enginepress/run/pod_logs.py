"""What a step of a run has printed, as far as Kubeflow's API gives it: while its pod is there, or from Kubeflow's log archive.

The API names a step's nodes in the workflow; the log is asked for by the name of a pod. That name is made of the node's and of a
template's, as Argo Workflows does it; which template it was is not told, so each that Kubeflow's compiler makes is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import urllib3

from enginepress.errors import ClusterError
from enginepress.run.api import Api
from enginepress.run.cluster import ClusterRun
from enginepress.run.run_state import RunState, Step
from enginepress.steps.run_report import from_log

TEMPLATES = ("system-container-impl", "retry-system-container-impl")
REPORT = "report"
"""The task that tells how a run ended."""
MOST_BYTES = 64 * 1024 * 1024


def pods_of(node: str) -> list[str]:
    """Names that the pod of a workflow's node may have."""
    workflow, dash, number = node.rpartition("-")
    return [*(f"{workflow}-{template}-{number}" for template in TEMPLATES if dash), node]


def log_of(run: ClusterRun, step: Step) -> str | None:
    """The log of a step: of its last attempt that has one. None if the API has none.

    Raises:
        ClusterError: if the API cannot be asked at all.
    """
    for node in reversed(step.nodes):
        for pod in pods_of(node):
            for path in _paths(run, pod):
                if (text := _read(run.api, path)) is not None:
                    return text
    return None


def report_of(run: ClusterRun, state: RunState) -> str | None:
    """The report with which a run has ended, as Markdown: what each step did, and what to do about one that failed. None if it
    cannot be had: it lies in the workspace in any case."""
    for step in state.steps:
        if step.name == REPORT:
            try:
                return from_log(log_of(run, step) or "")
            except ClusterError:
                return None
    return None


def kubectl(run: ClusterRun) -> str:
    """The command that shows what the API does not: logs of pods that wait or that another container of theirs has written."""
    space = f" -n {run.api.connection.namespace}" if run.api.connection.namespace else " -n kubeflow"
    return f"kubectl logs{space} -l pipeline/runid={run.id} -c main --tail=-1 --prefix"


def chosen_steps(state: RunState, names: tuple[str, ...]) -> list[Step]:
    """The steps that are meant: those of these names, else those that failed, else those that run, else the last one.

    Raises:
        ClusterError: for a name that no step of the run has (yet).
    """
    if names:
        for name in names:
            if not any(step.name == name for step in state.steps):
                there = ", ".join(dict.fromkeys(s.name for s in state.steps)) or "none yet"
                raise ClusterError(f"the run has no step '{name}'", where=state.name, fix=f"its steps: {there}")
        return [step for step in state.steps if step.name in names]
    running = [step for step in state.steps if step.state == "RUNNING"]
    return list(state.failed_steps) or running or list(state.steps[-1:])


def _paths(run: ClusterRun, pod: str) -> Iterator[str]:
    """Where the API has logs, and where the user interface has."""
    yield f"/apis/v1alpha1/runs/{quote(run.id, safe='')}/nodes/{quote(pod, safe='')}/log"
    query = {"podname": pod, "runid": run.id}
    if run.api.connection.namespace:
        query["podnamespace"] = run.api.connection.namespace
    yield f"/k8s/pod/logs?{urlencode(query)}"


def _read(api: Api, path: str) -> str | None:
    configuration = api.client.configuration
    headers = {"User-Agent": api.client.user_agent}
    if api.connection.token is not None:
        headers["Authorization"] = f"Bearer {api.connection.token.value()}"
    if api.connection.cookie is not None:
        headers["Cookie"] = api.connection.cookie.value()
    timeout = urllib3.Timeout(connect=api.connection.connect_s, read=api.connection.read_s)
    try:
        answer = api.client.rest_client.pool_manager.request(
            "GET", configuration.host + path, headers=headers, timeout=timeout, preload_content=False
        )
        raw = answer.read(MOST_BYTES, decode_content=True)
        answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise api.explained(api.lost(error), "read the log") from None
    if answer.status in (401, 403):
        raise api.explained(api.refused(answer.reason or "", answer.status), "read the log")
    text = bytes(raw).decode("utf-8", errors="replace")
    if answer.status != 200 or _is_refusal(text) or "html" in answer.headers.get("content-type", ""):
        return None
    return text


def _is_refusal(text: str) -> bool:
    """The API answers 200 before it knows, and then writes an error where the log should be."""
    if not text.startswith('{"error'):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
