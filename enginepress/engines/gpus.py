"""NVIDIA's GPUs and their MIG profiles: gpus.yaml, typed, and found under any of the names that people and machines use.

H100-SXM5-80GB                      ours
NVIDIA H100 80GB HBM3               nvidia-smi
NVIDIA-H100-80GB-HBM3               Kubernetes' label nvidia.com/gpu.product
H100-SXM5-80GB-MIG-3g.40gb          a MIG profile of any of them
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from enginepress.engines.tables import load_table
from enginepress.errors import RecipeError

if TYPE_CHECKING:
    from enginepress.engines.versions import Container

FIELD = "engine.gpu.name"
MIB, GIB = 2**20, 2**30

UNKNOWN_SHARE = Fraction(9, 10)
"""Of a MIG profile's share of memory, where what it really has could not be sourced."""

_MIG = re.compile(r"(.+?)[-_ ]mig[-_ ](\d+)g[.-](\d+)gb((?:[+.-](?:me|gfx)(?:\.all)?)*)", re.IGNORECASE)


@dataclass(frozen=True)
class MigProfile:
    """One way to cut a GPU.

    Attributes:
        name: "3g.40gb".
        memory_bytes: usable; `sourced` says whether it was read or is a cautious share.
        memory_share, sm_share: of the whole GPU.
        count: how many fit on one GPU.
    """

    name: str
    memory_bytes: int
    memory_share: Fraction
    sm_share: Fraction
    count: int
    sourced: bool


@dataclass(frozen=True)
class Gpu:
    """One product, or one MIG profile of it.

    Attributes:
        name: ours, "H100-SXM5-80GB".
        sm: compute capability without the dot, "90".
        memory_bytes: all of it, as nvidia-smi says; what an engine gets of it is for the plan to say.
        marketed_gb: GB on the box.
        architecture: "Hopper".
        cuda: the first CUDA version that knows it.
        driver: the first driver branch that knows it; None where that is older than any container's.
        nvlink: GPUs that one NVLink domain joins; 1 if none. across_nodes: also those of several nodes.
        precisions: what the hardware can do.
        smi_names: product names as nvidia-smi prints them.
        mig: its profiles, smallest first.
        parent: for a MIG profile, the name of the GPU that it is cut from.
        sm_share: of the whole GPU, 1 but for a MIG profile.
    """

    name: str
    sm: str
    memory_bytes: int
    marketed_gb: int
    architecture: str
    cuda: str
    nvlink: int
    precisions: tuple[str, ...]
    smi_names: tuple[str, ...]
    driver: int | None = None
    mig: tuple[MigProfile, ...] = ()
    across_nodes: bool = False
    parent: str | None = None
    sm_share: Fraction = Fraction(1)

    @property
    def labels(self) -> tuple[str, ...]:
        """Values of Kubernetes' label nvidia.com/gpu.product."""
        return tuple(re.sub(r"\s+", "-", name) for name in self.smi_names)

    def profile(self, name: str) -> Gpu:
        """This GPU cut to one MIG profile. MIG instances have no peer-to-peer access, so they are joined by nothing."""
        for profile in self.mig:
            if profile.name == name:
                return replace(
                    self,
                    name=f"{self.name}-MIG-{name}",
                    memory_bytes=profile.memory_bytes,
                    nvlink=1,
                    across_nodes=False,
                    smi_names=tuple(f"{smi} MIG {name}" for smi in self.smi_names),
                    mig=(),
                    parent=self.name,
                    sm_share=profile.sm_share,
                )
        raise RecipeError(
            f"{self.name} has no MIG profile '{name}'",
            where=FIELD,
            fix="its profiles: " + ", ".join(p.name for p in self.mig) if self.mig else "it cannot be cut with MIG",
        )


@lru_cache(maxsize=1)
def load_gpus() -> tuple[Gpu, ...]:
    """gpus.yaml, in its order: old to new."""
    table = load_table("gpus")
    return tuple(_gpu(table, name, entry) for name, entry in table["gpus"].items())


def _gpu(table: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Gpu:
    architecture = table["architectures"][entry["sm"]]
    memory = entry["memory_mib"] * MIB
    return Gpu(
        name=name,
        sm=entry["sm"],
        memory_bytes=memory,
        marketed_gb=entry["marketed_gb"],
        architecture=architecture["name"],
        cuda=architecture["cuda"],
        nvlink=entry["nvlink"],
        driver=architecture.get("driver"),
        across_nodes=entry.get("across_nodes", False),
        precisions=tuple(architecture["precisions"]),
        smi_names=tuple(entry["smi"]),
        mig=_profiles(table["mig"].get(entry.get("mig"), {}), memory),
    )


def _profiles(table: Mapping[str, Any], memory: int) -> tuple[MigProfile, ...]:
    found = []
    for name, cells in table.items():
        if name != "source":
            share, sms, count, gib = cells
            part = Fraction(str(share))
            usable = int(gib * GIB) if gib is not None else int(memory * part * UNKNOWN_SHARE)
            found.append(MigProfile(name, usable, part, Fraction(str(sms)), count, gib is not None))
    return tuple(sorted(found, key=lambda p: (p.memory_bytes, p.sm_share)))


def find(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        RecipeError: for an unknown or ambiguous name, with the nearest ones.
    """
    if match := _MIG.fullmatch(name.strip()):
        return _find(match.group(1)).profile(f"{match.group(2)}g.{match.group(3)}gb")
    return _find(name)


def _find(name: str) -> Gpu:
    wanted = _plain(name)
    if wanted.endswith("shared"):
        raise RecipeError(
            f"'{name}' is shared with other programs, so how much memory an engine gets is unknown",
            where=FIELD,
            fix="name the whole GPU or a MIG profile of it",
        )
    known = _by_plain_name()
    if wanted in known:
        return known[wanted]
    # What is left out may be the form and the memory, not more: "RTX 6000" is another GPU than RTX 6000 Ada.
    rest = re.compile(re.escape(wanted) + r"(sxm\d|pcie|nvl)?(\d+gb)?")
    starts = [gpu.name for gpu in load_gpus() if wanted and rest.fullmatch(_plain(gpu.name))]
    if len(starts) == 1:
        return known[_plain(starts[0])]
    if starts:
        raise RecipeError(f"'{name}' may be {', '.join(starts)}", where=FIELD, fix="name one of them")
    near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.4)
    names = list(dict.fromkeys(known[n].name for n in near))[:3] or [gpu.name for gpu in load_gpus()]
    raise RecipeError(
        f"the GPU '{name}' is not known",
        where=FIELD,
        fix=("did you mean " if near else "known are ") + ", ".join(names) + ("?" if near else ""),
    )


@lru_cache(maxsize=1)
def _by_plain_name() -> dict[str, Gpu]:
    return {_plain(spelling): gpu for gpu in load_gpus() for spelling in (gpu.name, *gpu.smi_names)}


def _plain(name: str) -> str:
    """Without what differs between spellings: maker, case, spaces, dashes."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^\s*(nvidia|tesla)\b", "", name.strip().lower()))


def unsupported(gpu: Gpu, builder: str, precision: str, kv_cache: str | None, container: Container) -> RecipeError | None:
    """Why this builder cannot do this precision on this GPU with this container, or None.

    The hardware's own limit is named first: no other container would help.
    """
    table = load_table("gpus")
    what = f"{gpu.name} (SM {gpu.sm}, {gpu.architecture})"
    possible = container.can(builder, gpu.sm)
    usable = [p for p in possible if p in gpu.precisions]
    if gpu.sm in table["unsupported"] and container.kind == "trtllm":
        return RecipeError(
            f"builder '{builder}' does not work on {what}: {table['unsupported'][gpu.sm]['reason']}",
            where=FIELD,
            fix="use an Ampere GPU or a newer one, such as A10, L4 or A100",
        )
    if precision not in gpu.precisions:
        return RecipeError(
            f"{precision} is impossible on {what}: {need(precision)}",
            where="engine.precision",
            fix=_instead(usable) + _gpus_with(precision, builder, container),
        )
    if not possible:
        return RecipeError(
            f"builder '{builder}' in Triton {container.tag} ({container.holds}) is not known to work on {what}",
            where=FIELD,
            fix=f"use {_gpus_with(precision, builder, container).removeprefix(', or ') or 'another GPU'}, or another container",
        )
    if precision not in possible:
        return RecipeError(
            f"builder '{builder}' in Triton {container.tag} ({container.holds}) does not do {precision} on {what}",
            where="engine.precision",
            fix=_instead(usable),
        )
    if kv_cache is not None and kv_cache not in container.can_cache(builder, gpu.sm):
        can = container.can_cache(builder, gpu.sm)
        return RecipeError(
            f"builder '{builder}' in Triton {container.tag} ({container.holds}) keeps no KV cache in {kv_cache} on {what}",
            where="engine.kv_cache",
            fix="leave it out for 16 bit" + (", or use " + ", ".join(can) if can else ""),
        )
    return None


def need(precision: str) -> str:
    """Why a precision needs hardware, in a clause."""
    return str(load_table("gpus")["needs"].get(precision, "the hardware lacks it"))


def _instead(precisions: list[str]) -> str:
    return "use " + ", ".join(precisions) if precisions else "use another GPU"


def _gpus_with(precision: str, builder: str, container: Container) -> str:
    able = [gpu.name for gpu in load_gpus() if precision in gpu.precisions and precision in container.can(builder, gpu.sm)]
    return f", or a GPU that can: {', '.join(able[:4])}" + (" …" if len(able) > 4 else "") if able else ""
