"""The machine, read by enginepress' own readers and held against nvidia-smi, torch and gpus.yaml."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from typing import Any

from scripts.gpu_check.parts import Settings

_FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "mig.mode.current", "uuid")
_PACKAGES = ("enginepress", "torch", "transformers", "nvidia-modelopt", "numpy", "safetensors", "tokenizers", "triton")


def machine(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    if settings.device != "cuda":
        return {**found, "gpu": None}
    smi, ours, torch_says = _nvidia_smi(), _ours(), _torch()
    checks = {
        "name": ours["name"].split("-MIG-")[0] == smi["name"],
        "sm": ours["sm"] == smi["compute_cap"].replace(".", "") == torch_says["sm"],
        "driver": ours["driver"] == smi["driver_version"],
        "count": ours["count"] >= 1,
    }
    return {
        **found,
        "nvidia_smi": smi,
        "ours": ours,
        "torch": torch_says,
        "table": _table(ours["name"], smi),
        "agree": checks,
        "ok": all(checks.values()),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> dict[str, Any]:
    query = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    rows = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.strip().splitlines()
    cells = [cell.strip() for cell in rows[0].split(",")]
    head = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True, timeout=60).stdout
    cuda = re.search(r"CUDA Version: ([\d.]+)", head)
    # The serial number of somebody's card is nobody's business.
    named = {name: cell for name, cell in zip(_FIELDS, cells, strict=True) if name != "uuid"}
    return {**named, "rows": len(rows), "cuda": cuda.group(1) if cuda else None}


def _ours() -> dict[str, Any]:
    from enginepress.engines.tensorrt_llm.machine import local_gpu

    gpu = local_gpu()
    return {"name": gpu.name, "sm": gpu.sm, "driver": gpu.driver, "count": gpu.count}


def _torch() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sm": f"{properties.major}{properties.minor}",
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "devices": torch.cuda.device_count(),
    }


def _table(name: str, smi: dict[str, Any]) -> dict[str, Any]:
    """What gpus.yaml says of a GPU of this name, and by how much its memory is another one."""
    from enginepress.engines import gpus
    from enginepress.engines.versions import check_driver, load_matrix
    from enginepress.errors import EnginepressError

    try:
        gpu = gpus.find(name)
    except EnginepressError as error:
        return {"found": False, "error": str(error)}
    runs = []
    for row in load_matrix().rows:
        if row.builders:
            try:
                check_driver(row, smi["driver_version"], gpu=gpu)
                runs.append(f"{row.tag} ({row.kind})")
            except EnginepressError:
                continue
    return {
        "found": True,
        "name": gpu.name,
        "sm": gpu.sm,
        "memory_bytes": gpu.memory_bytes,
        "memory_minus_nvidia_smi_mib": gpu.memory_bytes // 2**20 - int(float(smi["memory.total"])),
        "precisions": list(gpu.precisions),
        "containers_that_this_driver_runs": runs,
    }
