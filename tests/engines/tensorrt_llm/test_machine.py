"""Which GPUs count as here: those that CUDA would see, and of one kind."""

from __future__ import annotations

import pytest

from enginepress.engines.tensorrt_llm.machine import local_gpu
from enginepress.errors import BuildError
from tests.engines.stand_ins.image import H100, Image

L4 = "NVIDIA L4,8.9,590.44.01"


def here(monkeypatch: pytest.MonkeyPatch, *gpus: str, **environment: str) -> tuple[str, str, int]:
    monkeypatch.setenv("STAND_IN_GPUS", ";".join(gpus))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = local_gpu()
    return found.name, found.sm, found.count


def test_all_gpus_of_one_kind_count(inside: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, H100, H100) == ("NVIDIA H100 80GB HBM3", "90", 2)
    assert here(monkeypatch, H100, H100, CUDA_VISIBLE_DEVICES="1") == ("NVIDIA H100 80GB HBM3", "90", 1)


def test_of_several_kinds_those_count_that_cuda_sees(inside: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi lists all of them, whatever CUDA_VISIBLE_DEVICES is."""
    with pytest.raises(BuildError, match="of different kinds: NVIDIA H100 80GB HBM3, NVIDIA L4") as caught:
        here(monkeypatch, H100, L4)
    assert "CUDA_VISIBLE_DEVICES with their UUIDs" in (caught.value.fix or "")
    assert here(monkeypatch, H100, L4, CUDA_VISIBLE_DEVICES="GPU-0001") == ("NVIDIA L4", "89", 1)
    with pytest.raises(BuildError, match="count in different orders"):
        here(monkeypatch, H100, L4, CUDA_VISIBLE_DEVICES="1")
    assert here(monkeypatch, H100, L4, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID") == ("NVIDIA L4", "89", 1)


@pytest.mark.parametrize("said", ["", "-1", "7", "GPU-ffff,0"])
def test_no_gpu_that_is_visible_is_said_so(said: str, inside: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=f"CUDA_VISIBLE_DEVICES={said} leaves no GPU"):
        here(monkeypatch, H100, CUDA_VISIBLE_DEVICES=said)


def test_mig_devices_of_several_sizes_are_several_kinds(inside: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_MIG", "1g.10gb 3g.40gb")
    with pytest.raises(BuildError, match=r"MIG-1g\.10gb, NVIDIA H100 80GB HBM3-MIG-3g\.40gb"):
        here(monkeypatch, H100)
    assert here(monkeypatch, H100, CUDA_VISIBLE_DEVICES="MIG-0000-1") == ("NVIDIA H100 80GB HBM3-MIG-3g.40gb", "90", 1)
