"""The GPU and the packages of the machine that this runs on, asked of the tools that know: nvidia-smi and the image's Python."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import BuildError

_QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
_PACKAGES = """
import importlib.metadata as m, json
found = {}
for name in ("tensorrt_llm", "tensorrt", "tensorrt_cu13", "tensorrt_cu12"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_TIMEOUT_S = 120


@dataclass(frozen=True)
class LocalGpu:
    """The GPUs here, which must all be alike.

    Attributes:
        name: product name as nvidia-smi says it, with `-MIG-<profile>` for a MIG device.
        sm: compute capability without the dot.
    """

    name: str
    sm: str
    driver: str
    count: int


def local_gpu(env: Mapping[str, str] | None = None) -> LocalGpu:
    """Raises BuildError if there is no GPU, or if there are several kinds."""
    rows = [[cell.strip() for cell in line.split(",")] for line in _ask(["nvidia-smi", *_QUERY], env).splitlines() if line]
    if not rows or any(len(row) != 3 for row in rows):
        raise BuildError("nvidia-smi names no GPU", where="nvidia-smi", fix="run this step on a GPU that the container is given")
    kinds = sorted({(name, capability) for name, capability, _ in rows})
    if len(kinds) > 1:
        raise BuildError(
            "the GPUs here are of different kinds: " + ", ".join(name for name, _ in kinds),
            where="nvidia-smi",
            fix="give the step GPUs of one kind, e.g. by CUDA_VISIBLE_DEVICES or a node selector",
        )
    name, capability, driver = rows[0]
    profiles = re.findall(r"^\s+MIG (\S+)\s+Device", _ask(["nvidia-smi", "-L"], env), flags=re.MULTILINE)
    return LocalGpu(
        name=f"{name}-MIG-{profiles[0]}" if profiles else name,
        sm=capability.replace(".", ""),
        driver=driver,
        count=len(profiles) or len(rows),
    )


def local_packages(python: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of `tensorrt_llm` and `tensorrt` in the interpreter that has them.

    Raises:
        BuildError: if one is missing.
    """
    try:
        found = json.loads(_ask([str(python), "-c", _PACKAGES], env))
    except ValueError:
        found = {}
    tensorrt = next((found[name] for name in ("tensorrt", "tensorrt_cu13", "tensorrt_cu12") if name in found), None)
    if "tensorrt_llm" not in found or tensorrt is None:
        missing = "tensorrt_llm" if "tensorrt_llm" not in found else "tensorrt"
        raise BuildError(f"the package {missing} is not in {python}", fix="run this step in NVIDIA's container with TensorRT-LLM")
    return {"tensorrt_llm": plain_version(found["tensorrt_llm"]), "tensorrt": plain_version(tensorrt)}


def plain_version(version: str) -> str:
    """Without what packaging adds: `10.14.1.48.post1` and `1.2.1+cu13` are what NVIDIA's tables call 10.14.1.48 and 1.2.1."""
    return re.sub(r"(\.post\d+)?(\+.*)?$", "", version)


def _ask(command: Sequence[str], env: Mapping[str, str] | None) -> str:
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=dict(env) if env is not None else None,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "is not here" if isinstance(error, FileNotFoundError) else f"does not answer: {error}"
        raise BuildError(
            f"{command[0]} {reason}", fix="run this step on a GPU machine, in NVIDIA's container with TensorRT-LLM"
        ) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BuildError(
            f"{command[0]} failed" + (f": {said[0]}" if said else ""),
            fix="run this step on a GPU machine, in NVIDIA's container with TensorRT-LLM",
        )
    return done.stdout
