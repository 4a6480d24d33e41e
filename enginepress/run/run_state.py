"""What Kubeflow says of a run, as people understand it: steps, without the nodes that only Kubeflow needs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
GOOD = ("SUCCEEDED", "SKIPPED")


@dataclass(frozen=True)
class Step:
    """A task of a run.

    Attributes:
        name: the task's; on a run of several recipes, several have the same.
        state: PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED, CANCELED, …
        nodes: of the workflow that are its pods, as far as Kubeflow tells.
    """

    name: str
    state: str
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    error: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        if self.started is None or self.ended is None:
            return None
        return max(0.0, (self.ended - self.started).total_seconds())


@dataclass(frozen=True)
class RunState:
    """How a run stands."""

    id: str
    name: str
    state: str
    created: datetime.datetime | None = None
    finished: datetime.datetime | None = None
    error: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def at_work(self) -> bool:
        """It has not ended, and nobody has cancelled it."""
        return not self.ended and self.state != "CANCELING"

    @property
    def good(self) -> bool:
        return self.state in GOOD

    @property
    def failed_steps(self) -> tuple[Step, ...]:
        return tuple(s for s in self.steps if s.state == "FAILED")

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.id,
            "name": self.name,
            "state": self.state,
            "created": _text(self.created),
            "finished": _text(self.finished),
            "error": self.error,
            "steps": [{"step": s.name, "state": s.state, "seconds": s.seconds, "error": s.error} for s in self.steps],
        }


def read_run(run: Any) -> RunState:
    """From a V2beta1Run."""
    details = run.run_details.task_details if run.run_details is not None else None
    return RunState(
        id=str(run.run_id),
        name=str(run.display_name or ""),
        state=str(run.state or "PENDING"),
        created=_time(run.created_at),
        finished=_time(run.finished_at),
        error=_error(run.error),
        steps=_steps(details or ()),
    )


def _steps(details: Sequence[Any]) -> tuple[Step, ...]:
    """The tasks among a workflow's nodes, in the order of their start.

    A task is there three times: as its driver, as a graph of its own, and as the executor in that graph, whose pods are those of
    its attempts. Executors do not say whose they are; times tell.
    """
    names = {str(d.display_name) for d in details}
    drivers = {n.removesuffix("-driver") for n in names if n.endswith("-driver")}
    executors = [d for d in details if str(d.display_name).startswith("executor")]
    found = []
    for detail in details:
        name = str(detail.display_name)
        if name in ("root", "") or name not in drivers or name.endswith("-driver"):
            continue
        start, end = _time(detail.start_time), _time(detail.end_time)
        nodes = [c.pod_name for c in detail.child_tasks or () if c.pod_name]
        for executor in executors:
            begun = _time(executor.start_time)
            if start is not None and begun is not None and start <= begun and (end is None or begun <= end):
                nodes += [c.pod_name for c in executor.child_tasks or () if c.pod_name]
        state = str(detail.state or "PENDING")
        found.append(Step(name, state, start, end, _error(detail.error), tuple(dict.fromkeys(nodes))))
    return tuple(sorted(found, key=lambda s: s.started.timestamp() if s.started is not None else float("inf")))


def _error(status: Any) -> str:
    return " ".join(str(status.message or "").split()) if status is not None else ""


def _time(value: Any) -> datetime.datetime | None:
    """A time; what has not happened yet comes as the beginning of 1970."""
    if not isinstance(value, datetime.datetime) or value.year <= 1970:
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=datetime.timezone.utc)


def _text(time: datetime.datetime | None) -> str | None:
    return time.isoformat() if time is not None else None
