"""Compiled pipelines, taken apart: for each task its container, its platform settings, and how its inputs come about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from enginepress.compile_options import CompileOptions
from enginepress.run.compiled import compile_pipeline

IMAGE = "registry.example/team/enginepress@sha256:" + "ab" * 32


@dataclass(frozen=True)
class Task:
    """One task of a compiled pipeline, wherever it stands in the tree of DAGs."""

    name: str
    spec: dict[str, Any]
    container: dict[str, Any]
    platform: dict[str, Any]
    scope: str

    @property
    def env(self) -> dict[str, str]:
        return {e["name"]: e["value"] for e in self.container.get("env", [])}

    @property
    def resources(self) -> dict[str, Any]:
        found: dict[str, Any] = self.container["resources"]
        return found

    @property
    def pvc_mounts(self) -> dict[str, str]:
        """Mount path -> the parameter or name of its claim."""
        found = {}
        for mount in self.platform.get("pvcMount", []):
            name = mount["pvcNameParameter"]
            found[mount["mountPath"]] = _plain(name.get("componentInputParameter") or name["runtimeValue"]["constant"])
        return found

    @property
    def secrets(self) -> dict[str, set[str]]:
        """Parameter that names the Secret -> its keys."""
        return {
            _plain(s["secretNameParameter"]["componentInputParameter"]): {k["envVar"] for k in s["keyToEnv"]}
            for s in self.platform.get("secretAsEnv", [])
        }


@dataclass(frozen=True)
class Compiled:
    text: str
    pipeline: dict[str, Any]
    platform: dict[str, Any]
    tasks: dict[str, Task]

    @property
    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = self.pipeline["root"]["inputDefinitions"]["parameters"]
        return found


@cache
def compiled(name: str, **options: Any) -> Compiled:
    text = compile_pipeline(name, CompileOptions(**{"image": IMAGE, **options}))
    pipeline, platform = yaml.safe_load_all(text)
    executors = pipeline["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tasks = {}
    dags = {"root": pipeline["root"], **pipeline["components"]}
    for scope, component in dags.items():
        for task, spec in component.get("dag", {}).get("tasks", {}).items():
            label = pipeline["components"][spec["componentRef"]["name"]].get("executorLabel")
            if label is not None:
                assert task not in tasks, "every task has a name of its own"
                tasks[task] = Task(task, spec, executors[label]["container"], settings[label], scope)
    return Compiled(text, pipeline, platform, tasks)


def _plain(parameter: str) -> str:
    return parameter.removeprefix("pipelinechannel--")
