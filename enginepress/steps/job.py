"""What every step is given: the recipe, the workspace, and the plan that resolve made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enginepress.build_key import BuildInputs
from enginepress.canonical import parameter_json
from enginepress.recipe import Recipe
from enginepress.workspace import Workspace


@dataclass(frozen=True)
class Job:
    """One run's surroundings.

    Attributes:
        run: names this run; its steps leave how they ended in `runs/<run>/` of the workspace.
    """

    recipe: Recipe
    workspace: Workspace
    run: str

    def log(self, step: str) -> Path:
        """Where this step's tools write what they print."""
        path = self.workspace.path("runs", self.run, f"{step}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def note_progress(self, step: str, text: str) -> None:
        """What the step is doing now, for whoever follows the run. Losing one is no harm."""
        try:
            self.workspace.path("runs", self.run, f"{step}.now").write_text(text)
        except OSError:
            pass


def run_name(pipeline_run: str, recipe: Recipe) -> str:
    """The run of one recipe among those of a pipeline's run."""
    return f"{pipeline_run}-{recipe.name}-{recipe.digest()[:8]}"


@dataclass(frozen=True)
class Plan:
    """What resolve decided: names that all later steps follow. Travels between steps as JSON.

    Attributes:
        revision: digest of the revision; the workspace has it in `revisions/`.
        revision_id: the commit, or what the source calls it.
        release: number of a release in the primary store that has this build key already; 0 if there is none, or none that is
            whole.
        inputs: what the build key is made of.
        registry: MLflow tracking URI of this run, for a recipe that names none.
        lost: which release has this build key and is not whole any more, in words; empty if there is none.
    """

    run: str
    revision: str
    revision_id: str
    engine_key: str
    build_key: str
    checks_digest: str
    release: int
    inputs: Mapping[str, Any] = field(default_factory=dict)
    registry: str = ""
    lost: str = ""

    def to_json(self) -> str:
        return parameter_json(asdict(self))

    @staticmethod
    def from_json(text: str) -> Plan:
        return Plan(**json.loads(text))

    def outputs(self) -> dict[str, tuple[str, str]]:
        """Step -> kind and key of the output that it leaves in the workspace."""
        return {
            "download": ("checkpoints", self.revision),
            "convert": ("converted", self.engine_key),
            "build": ("engines", self.engine_key),
            "assemble": ("repositories", self.build_key),
        }

    def build_inputs(self) -> BuildInputs:
        i = self.inputs
        return BuildInputs(i["revision"], i["build"], i["environment"], i["template"])
