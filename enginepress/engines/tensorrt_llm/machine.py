"""The GPU and the packages of the machine that this runs on, asked of the tools that know: nvidia-smi and the image's Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
_GIVE = "run this step on a GPU that the container is given"


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
    """The GPUs that a CUDA program here would see: nvidia-smi itself lists all of the machine, whatever CUDA_VISIBLE_DEVICES is.

    Raises:
        BuildError: if there is none, or if there are several kinds.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in _ask(["nvidia-smi", *_QUERY], env).splitlines() if line]
    if not rows or any(len(row) != 3 for row in rows):
        raise BuildError("nvidia-smi names no GPU", where="nvidia-smi", fix=_GIVE)
    devices = _visible(_devices(rows, _ask(["nvidia-smi", "-L"], env)), os.environ if env is None else env)
    kinds = sorted({device.name for device in devices})
    if len(kinds) > 1:
        raise BuildError(
            "the GPUs here are of different kinds: " + ", ".join(kinds),
            where="nvidia-smi",
            fix="give the step GPUs of one kind: by a node selector, or by CUDA_VISIBLE_DEVICES with their UUIDs (nvidia-smi -L)",
        )
    first = devices[0]
    return LocalGpu(name=first.name, sm=first.sm, driver=rows[0][2], count=len(devices))


@dataclass(frozen=True)
class _Device:
    """What CUDA would count as one: a whole GPU, or a MIG device of it."""

    name: str
    sm: str
    uuid: str
    gpu: int


def _devices(rows: Sequence[Sequence[str]], listing: str) -> list[_Device]:
    """Args:
    listing: of `nvidia-smi -L`: a line a GPU, and below it one for each MIG device.
    """
    found: list[list[_Device]] = [[] for _ in rows]
    whole = {number: _Device(row[0], row[1].replace(".", ""), "", number) for number, row in enumerate(rows)}
    number = -1
    for line in listing.splitlines():
        uuid = match.group(1) if (match := re.search(r"UUID: ([^)]+)\)", line)) else ""
        if re.match(r"GPU \d+:", line):
            number += 1
            if number in whole:
                whole[number] = replace(whole[number], uuid=uuid)
        elif (profile := re.match(r"\s+MIG (\S+)\s+Device", line)) and number in whole:
            gpu = whole[number]
            found[number].append(replace(gpu, name=f"{gpu.name}-MIG-{profile.group(1)}", uuid=uuid))
    return [device for number, parts in enumerate(found) for device in (parts or [whole[number]])]


def _visible(devices: list[_Device], env: Mapping[str, str]) -> list[_Device]:
    """Those that CUDA_VISIBLE_DEVICES leaves."""
    said = env.get("CUDA_VISIBLE_DEVICES")
    if said is None or said.strip() in ("all", "void"):
        return devices
    chosen: list[_Device] = []
    for entry in filter(None, (part.strip() for part in said.split(","))):
        if entry.isdigit():
            # CUDA counts the fastest first, unless it is told otherwise; among GPUs of one kind that makes no difference.
            if len({d.name for d in devices}) > 1 and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
                raise BuildError(
                    f"which GPU CUDA_VISIBLE_DEVICES={said} means is not known: CUDA and nvidia-smi count in different orders",
                    where="CUDA_VISIBLE_DEVICES",
                    fix="set CUDA_DEVICE_ORDER=PCI_BUS_ID as well, or name them by their UUIDs (nvidia-smi -L)",
                )
            matching = [d for d in devices if d.gpu == int(entry)][:1]
        else:
            matching = [d for d in devices if d.uuid.startswith(entry)]
        if not matching:
            break  # as CUDA does: what follows an entry that is none is not visible either
        chosen += matching
    if not chosen:
        raise BuildError(f"CUDA_VISIBLE_DEVICES={said} leaves no GPU", where="CUDA_VISIBLE_DEVICES", fix=_GIVE)
    return chosen


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
