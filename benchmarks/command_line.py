"""What the command line costs: help, and a run that finds nothing to do.

Against help stands triton_cli's, if `--triton-cli PATH` names one (it wants an environment of its own); against the run
with nothing to do, a Python process that only imports kfp and mlflow, as a runner without our check would.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from benchmarks.timing import Times, in_turns

ROUNDS = 5


def help_times(triton_cli: str | None) -> dict[str, Times]:
    commands = {"enginepress --help": [sys.executable, "-m", "enginepress", "--help"]}
    if triton_cli:
        commands["triton --help"] = [triton_cli, "--help"]
    return in_turns(commands, rounds=ROUNDS)


def up_to_date_times(recipe: Path, workspace: Path) -> dict[str, Times]:
    """The recipe has been run before."""
    commands = {
        "enginepress run (up to date)": [sys.executable, "-m", "enginepress", "run", str(recipe), "-w", str(workspace)],
        "import kfp, mlflow": [sys.executable, "-c", "import kfp, mlflow"],
    }
    return in_turns(commands, rounds=ROUNDS)


def plan_times(folder: Path) -> Times:
    """`enginepress plan` of the example checkpoint for one L4."""
    recipe = folder / "plan.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "source": f"file://{Path(__file__).parents[1]}/examples/checkpoints/tiny-llama",
                "engine": {"builder": "tensorrt_llm", "precision": "float16", "gpu": {"name": "L4"}},
                "stores": ["file:///releases"],
            }
        )
    )
    command = [sys.executable, "-m", "enginepress", "plan", str(recipe)]
    return in_turns({"plan": command}, rounds=ROUNDS)["plan"]
