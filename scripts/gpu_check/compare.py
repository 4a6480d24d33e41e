"""Two conversions of one checkpoint, tensor by tensor: the GPU's and the CPU's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.gpu_check.parts import rounded

WORST = 3
"""Tensors that are named of each kind."""


def compare(gpu: Path, cpu: Path) -> dict[str, Any]:
    """What differs between the folders, in configs and in tensors by their kind."""
    files = sorted(p.name for p in gpu.iterdir()), sorted(p.name for p in cpu.iterdir())
    found: dict[str, Any] = {"same_files": files[0] == files[1], "files": files[0]}
    if files[0] != files[1]:
        found["files_of_cpu"] = files[1]
    found["configs"] = {
        name: _json_difference(json.loads((gpu / name).read_text()), json.loads((cpu / name).read_text()))
        for name in ("config.json", "hf_quant_config.json", "quant_cfg.json")
        if (gpu / name).is_file() and (cpu / name).is_file()
    }
    found["tensors"] = _tensors(gpu, cpu)
    return found


def _json_difference(one: Any, other: Any, where: str = "") -> list[str]:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [f"{where}: {one!r} on the GPU, {other!r} on the CPU"[:300]]
    lines: list[str] = []
    for key in sorted({*one, *other}):
        lines += _json_difference(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    return lines[:20]


def _tensors(gpu: Path, cpu: Path) -> dict[str, Any]:
    from enginepress.engines.modelopt.tensor_files import TensorFolder

    kinds: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for file in sorted({p.name for p in [*gpu.glob("*.safetensors"), *cpu.glob("*.safetensors")]}):
        ours, theirs = TensorFolder(gpu, file), TensorFolder(cpu, file)
        missing += [f"{file}: {name}" for name in sorted(ours.names() ^ theirs.names())]
        for name in sorted(ours.names() & theirs.names()):
            _add(kinds, f"{file}: {name}", ours, theirs, name)
    for kind in kinds.values():
        kind["equal_share"] = rounded(kind.pop("equal") / max(1, kind["numbers"]))
        kind["worst"] = [text for by, text in sorted(kind["worst"], reverse=True)[:WORST] if by > 0]
    return {"only_on_one_side": missing[:20], "kinds": kinds}


def _add(kinds: dict[str, dict[str, Any]], what: str, ours: Any, theirs: Any, name: str) -> None:
    import torch

    one, other = ours.read(name), theirs.read(name)
    kind = kinds.setdefault(_kind(name, one), _nothing())
    kind["tensors"] += 1
    if one.shape != other.shape or one.dtype != other.dtype:
        said = f"{what}: {tuple(one.shape)} {one.dtype}, {tuple(other.shape)} {other.dtype}"
        kind["wrong_shape"] = [*kind["wrong_shape"], said][:5]
        return
    if not one.numel():
        return
    a, b = one.float(), other.float()
    difference = (a - b).abs()
    relative = difference / b.abs().clamp_min(torch.finfo(torch.float32).tiny)
    kind["numbers"] += one.numel()
    flat = one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    kind["equal"] += int((flat[0] == flat[1]).reshape(one.numel(), -1).all(-1).sum())
    kind["max_abs"] = rounded(max(kind["max_abs"], difference.max().item()))
    kind["max_rel"] = rounded(max(kind["max_rel"], relative[b != 0].max().item() if bool((b != 0).any()) else 0.0))
    decoded = _decoded_difference(ours, theirs, name)
    if decoded is not None:
        kind["decoded_rel"] = rounded(max(kind["decoded_rel"], decoded))
    worst = decoded if decoded is not None else (difference.norm() / b.norm().clamp_min(1e-30)).item()
    kind["worst"].append((worst, f"{what}: {rounded(worst)}"))


def _nothing() -> dict[str, Any]:
    numbers = dict.fromkeys(("tensors", "numbers", "equal"), 0)
    return {**numbers, "max_abs": 0.0, "max_rel": 0.0, "decoded_rel": 0.0, "wrong_shape": [], "worst": []}


def _kind(name: str, tensor: Any) -> str:
    """What stands in it, and in which type."""
    last = name.rsplit(".", 1)[-1]
    return f"{last} {str(tensor.dtype).removeprefix('torch.')}"


def _decoded_difference(ours: Any, theirs: Any, name: str) -> float | None:
    """Of a quantized weight: by how much the two stand for other numbers (Frobenius norm, relative), with its scales."""
    one, other = _decoded(ours, name), _decoded(theirs, name)
    if one is None or other is None or one.shape != other.shape:
        return None
    value: float = ((one - other).norm() / other.norm().clamp_min(1e-30)).item()
    return value


def _decoded(folder: Any, name: str) -> Any:
    from enginepress.engines.modelopt.verify import decode

    if not name.endswith(".weight"):
        return None
    base = name.removesuffix("weight")
    for scale, second, before in (
        (f"{base}weights_scaling_factor", f"{base}weights_scaling_factor_2", f"{base}prequant_scaling_factor"),
        (f"{name}_scale", f"{name}_scale_2", f"{base}pre_quant_scale"),
    ):
        if scale in folder:
            nvfp4 = str(folder.read(name).dtype) == "torch.uint8" and str(folder.read(scale).dtype) == "torch.float8_e4m3fn"
            value = decode(folder.read(name), folder.read(scale), folder.read(second) if nvfp4 and second in folder else None)
            return value * folder.read(before).float() if before in folder else value
    return None
