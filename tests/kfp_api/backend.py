"""What the double keeps: experiments, pipelines with their versions, runs that advance whenever they are looked at, and
recurring runs. It answers as the backend does, times that are not known yet as 1970 included."""

from __future__ import annotations

import datetime
import itertools
import json
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.kfp_api.rules import Refusal, check_parameters, check_schedule, matches, read_filter, read_package, read_spec

UNKNOWN_TIME = "1970-01-01T00:00:00Z"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
Item = dict[str, Any]


@dataclass
class Script:
    """How runs go: each look at one takes it a step further.

    Attributes:
        fails: tasks that fail, each with the message of its error.
        stands: True to leave runs where they are.
    """

    fails: dict[str, str] = field(default_factory=dict)
    stands: bool = False


@dataclass
class _Run:
    answer: Item
    tasks: list[str]
    retried: set[str]
    finally_: set[str]
    workflow: str
    failed: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    times: dict[str, list[str]] = field(default_factory=dict)


class Backend:
    """The double's memory. `multi_user` wants a namespace everywhere, as an installation with profiles does."""

    def __init__(self, *, multi_user: bool = False) -> None:
        self.multi_user = multi_user
        self.script = Script()
        self.experiments: dict[str, Item] = {}
        self.pipelines: dict[str, Item] = {}
        self.versions: dict[str, Item] = {}
        self.packages: dict[str, str] = {}
        self.runs: dict[str, _Run] = {}
        self.recurring: dict[str, Item] = {}
        self.logs: dict[str, str] = {}
        self.lost_logs: set[str] = set()
        self.lock = threading.RLock()
        self._clock = itertools.count()

    def now(self) -> str:
        start = datetime.datetime(2026, 5, 1, tzinfo=datetime.timezone.utc)
        return (start + datetime.timedelta(seconds=next(self._clock))).isoformat().replace("+00:00", "Z")

    # Lists ------------------------------------------------------------------------------------------------------------

    def listed(self, what: str, items: list[Item], query: dict[str, str], *, namespace: str | None = None) -> Item:
        """A page of a list, as every list of the API is filtered, sorted and cut."""
        predicates = read_filter(query.get("filter", ""), what)
        found = [i for i in items if matches(i, predicates)]
        if experiment := query.get("experiment_id"):
            found = [i for i in found if i.get("experiment_id") == experiment]
        elif self.multi_user and namespace is not None:
            found = [i for i in found if self._namespace_of(i) == namespace]
        if sort := query.get("sort_by"):
            key, _, order = sort.partition(" ")
            found.sort(key=lambda i: str(i.get(key, "")), reverse=order == "desc")
        size = int(query.get("page_size") or 0) or 20
        start = int(query.get("page_token") or 0)
        page: Item = {"total_size": len(found)}
        if found[start : start + size]:
            page[what] = found[start : start + size]
        if len(found) > start + size:
            page["next_page_token"] = str(start + size)
        return page

    def _namespace_of(self, item: Item) -> str:
        if "experiment_id" in item and item["experiment_id"] in self.experiments:
            return str(self.experiments[item["experiment_id"]].get("namespace", ""))
        return str(item.get("namespace", ""))

    def need_namespace(self, namespace: str | None, what: str) -> None:
        if self.multi_user and not namespace:
            raise Refusal(400, f"{what} cannot have an empty namespace in multi-user mode")

    # Experiments and pipelines ----------------------------------------------------------------------------------------

    def create_experiment(self, data: Item) -> Item:
        self.need_namespace(data.get("namespace"), "An experiment")
        name = data.get("display_name")
        if not name:
            raise Refusal(400, "Experiment's name cannot be empty")
        if any(e["display_name"] == name and e.get("namespace") == data.get("namespace") for e in self.experiments.values()):
            raise Refusal(409, f"Failed to create a new experiment. The name {name} already exists. Please specify a new name")
        item = {**data, "experiment_id": _id(), "created_at": self.now(), "storage_state": "AVAILABLE"}
        self.experiments[item["experiment_id"]] = item
        return item

    def create_pipeline(self, data: Item) -> Item:
        name = data.get("name") or data.get("display_name")
        if not name or len(name) > 128:
            raise Refusal(400, "Pipeline.Name must have 1 to 128 characters")
        if any(p["name"] == name and p.get("namespace") == data.get("namespace") for p in self.pipelines.values()):
            raise Refusal(409, f"Failed to create a new pipeline. The name {name} already exist. Please specify a new name")
        item = {**data, "name": name, "display_name": data.get("display_name") or name}
        item |= {"pipeline_id": _id(), "created_at": self.now()}
        self.pipelines[item["pipeline_id"]] = item
        return item

    def create_version(self, pipeline_id: str, name: str, package: str, description: str = "") -> Item:
        if pipeline_id not in self.pipelines:
            raise Refusal(404, f"Pipeline {pipeline_id} not found")
        if not name or len(name) > 127:
            raise Refusal(400, "PipelineVersion.Name must have 1 to 127 characters")
        if any(v["name"] == name and v["pipeline_id"] == pipeline_id for v in self.versions.values()):
            raise Refusal(
                409, f"Failed to create a new pipeline version. The name {name} already exists for the pipeline. Please specify"
            )
        spec = read_package(package)
        item = {"pipeline_id": pipeline_id, "pipeline_version_id": _id(), "name": name, "display_name": name}
        item |= {"created_at": self.now(), "pipeline_spec": spec} | ({"description": description} if description else {})
        self.versions[item["pipeline_version_id"]] = item
        self.packages[item["pipeline_version_id"]] = package
        return item

    def _source(self, data: Item) -> Item:
        """The spec of what a run or recurring run names, by value or by reference."""
        if reference := data.get("pipeline_version_reference"):
            version = self.versions.get(reference.get("pipeline_version_id", ""))
            if version is None or version["pipeline_id"] != reference.get("pipeline_id"):
                raise Refusal(404, f"PipelineVersion {reference.get('pipeline_version_id')} not found")
            return dict(version["pipeline_spec"])
        if data.get("pipeline_spec"):
            return read_spec(data["pipeline_spec"])
        raise Refusal(400, "Failed to create a run due to missing pipeline source")

    # Runs -------------------------------------------------------------------------------------------------------------

    def create_run(self, data: Item) -> Item:
        if not data.get("display_name"):
            raise Refusal(400, "The run name is empty. Please specify a valid name")
        self._need_experiment(data)
        spec = self._source(data)
        check_parameters(spec, (data.get("runtime_config") or {}).get("parameters") or {})
        run_id = _id()
        pipeline = spec.get("pipeline_spec", spec)["pipelineInfo"]["name"]
        answer = {**data, "run_id": run_id, "created_at": self.now(), "scheduled_at": UNKNOWN_TIME, "finished_at": UNKNOWN_TIME}
        answer |= {"storage_state": "AVAILABLE", "state": "PENDING"}
        self.runs[run_id] = _Run(
            answer, tasks_of(spec), _with(spec, "retryPolicy"), _exit_handlers(spec), f"{pipeline}-{run_id[:5]}"
        )
        return answer

    def _need_experiment(self, data: Item) -> None:
        if self.multi_user and not data.get("experiment_id"):
            raise Refusal(400, "Experiment id can not be empty in multi-user mode")
        if data.get("experiment_id") and data["experiment_id"] not in self.experiments:
            raise Refusal(404, f"Experiment {data['experiment_id']} not found")

    def run(self, run_id: str) -> _Run:
        if run_id not in self.runs:
            raise Refusal(404, f"Run {run_id} not found")
        return self.runs[run_id]

    def look_at(self, run_id: str) -> Item:
        """A run as it is, after it went a step further."""
        run = self.run(run_id)
        if not self.script.stands:
            self._advance(run)
        if run.states:
            run.answer["run_details"] = {"task_details": self._details(run)}
        return run.answer

    def terminate(self, run_id: str) -> Item:
        run = self.run(run_id)
        if run.answer["state"] not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refusal(400, f"Failed to terminate a run {run_id}. Row not found")
        run.answer["state"] = "CANCELING"
        return {}

    def _advance(self, run: _Run) -> None:
        state = run.answer["state"]
        if state == "PENDING":
            run.answer["state"] = "RUNNING"
        elif state == "CANCELING":
            self._end(run, "CANCELED")
            run.states = {t: "CANCELED" if s == "RUNNING" else s for t, s in run.states.items()}
        elif state == "RUNNING":
            self._advance_tasks(run)

    def _advance_tasks(self, run: _Run) -> None:
        left = [t for t in run.tasks if run.failed is None or t in run.finally_]
        task = next((t for t in left if run.states.get(t, "RUNNING") == "RUNNING"), None)
        if task is None:
            self._end(run, "SUCCEEDED" if run.failed is None else "FAILED")
            if run.failed is not None:
                run.answer["error"] = {"code": 2, "message": run.failed}
        elif task not in run.states:
            run.states[task] = "RUNNING"
            run.times[task] = [self.now(), UNKNOWN_TIME]
        elif task in self.script.fails:
            run.states[task], run.times[task][1] = "FAILED", self.now()
            run.failed = self.script.fails[task]
        else:
            run.states[task], run.times[task][1] = "SUCCEEDED", self.now()

    def _end(self, run: _Run, state: str) -> None:
        run.answer |= {"state": state, "finished_at": self.now()}

    def _details(self, run: _Run) -> list[Item]:
        """The workflow's nodes: for each task its driver, a graph of its own, and in that the executor's pod."""
        details = []
        for number, (task, state) in enumerate(run.states.items()):
            start, end = run.times[task]
            same = {"run_id": run.answer["run_id"], "create_time": start, "start_time": start, "end_time": end, "state": state}
            executor, attempt = f"{run.workflow}-{1000 + number}", f"{run.workflow}-{2000 + number}"
            driver = {"task_id": _id(), "display_name": f"{task}-driver", **same, "state": "SUCCEEDED"}
            details += [driver, {"task_id": _id(), "display_name": task, **same, "child_tasks": [{"pod_name": executor}]}]
            details.append({"task_id": _id(), "display_name": "executor", **same})
            if task in run.retried:
                details[-1]["child_tasks"] = [{"pod_name": attempt}]
                details.append({"task_id": _id(), "display_name": "executor(0)", **same})
        root = {"run_id": run.answer["run_id"], "task_id": _id(), "display_name": "root", "state": run.answer["state"]}
        driver = {"run_id": run.answer["run_id"], "task_id": _id(), "display_name": "root-driver", "state": "SUCCEEDED"}
        return [root, driver, *details]

    def pod_log(self, run_id: str, pod: str) -> str:
        """The log of a step's pod, under the name that Kubernetes knows it by."""
        run = self.run(run_id)
        for number, task in enumerate(run.states):
            right = (
                f"retry-system-container-impl-{2000 + number}"
                if task in run.retried
                else f"system-container-impl-{1000 + number}"
            )
            if pod == f"{run.workflow}-{right}" and task not in self.lost_logs:
                return self.logs.get(task, f"{task}: first line\n{task}: last line\n")
        # The real one has said 200 by then.
        message = f"Failed to read logs from pod {pod} due to error opening log stream: pods {pod!r} not found"
        return json.dumps({"error_message": message, "error_details": message})

    # Recurring runs ---------------------------------------------------------------------------------------------------

    def create_recurring(self, data: Item) -> Item:
        if not data.get("display_name"):
            raise Refusal(400, "Recurring run name is empty. Please specify a valid name")
        self._need_experiment(data)
        check_schedule(data)
        check_parameters(self._source(data), (data.get("runtime_config") or {}).get("parameters") or {})
        now = self.now()
        item = {**data, "recurring_run_id": _id(), "created_at": now, "updated_at": now}
        # The backend knows no status until its agent has reported one, and names the service account that runs will have.
        item |= {"status": "STATUS_UNSPECIFIED", "max_concurrency": str(data["max_concurrency"])}
        item["service_account"] = data.get("service_account") or "pipeline-runner"
        self.recurring[item["recurring_run_id"]] = item
        return item

    def get_recurring(self, recurring_id: str) -> Item:
        if recurring_id not in self.recurring:
            raise Refusal(404, f"Job {recurring_id} not found")
        return self.recurring[recurring_id]

    def set_recurring(self, recurring_id: str, *, enabled: bool) -> Item:
        item = self.get_recurring(recurring_id)
        item |= {"status": "ENABLED" if enabled else "DISABLED", "mode": "ENABLE" if enabled else "DISABLE"}
        item["updated_at"] = self.now()
        return {}

    def delete_recurring(self, recurring_id: str) -> Item:
        self.get_recurring(recurring_id)
        del self.recurring[recurring_id]
        return {}


def tasks_of(spec: Item) -> list[str]:
    """The tasks that run in pods, each after those that it waits for; groups (loops, exit handlers) are opened."""
    spec = spec.get("pipeline_spec", spec)
    found: list[str] = []

    def walk(component: Item) -> None:
        tasks = component["dag"]["tasks"]
        done: list[str] = []
        while waiting := [t for t in tasks if t not in done]:
            ready = [t for t in waiting if set(tasks[t].get("dependentTasks", [])) <= set(done)]
            for name in ready or waiting:
                inner = spec["components"][tasks[name]["componentRef"]["name"]]
                if "dag" in inner:
                    walk(inner)
                else:
                    found.append(name)
                done.append(name)

    walk(spec["root"])
    return found


def _with(spec: Item, what: str) -> set[str]:
    """Tasks that have something, such as a retry policy, with which each attempt has a pod of its own."""
    return {name for name, task in _all_tasks(spec) if what in task}


def _exit_handlers(spec: Item) -> set[str]:
    """Tasks that run whatever happened before."""
    strategy = "ALL_UPSTREAM_TASKS_COMPLETED"
    return {name for name, task in _all_tasks(spec) if task.get("triggerPolicy", {}).get("strategy") == strategy}


def _all_tasks(spec: Item) -> list[tuple[str, Item]]:
    spec = spec.get("pipeline_spec", spec)
    graphs = [spec["root"], *(c for c in spec.get("components", {}).values() if "dag" in c)]
    return [pair for graph in graphs for pair in graph["dag"]["tasks"].items()]


def _id() -> str:
    return str(uuid.uuid4())
