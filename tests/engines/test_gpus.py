"""gpus.yaml: sizes, names and MIG profiles, and finding a GPU under the names that people and machines use."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines import gpus
from enginepress.engines.gpus import GIB, MIB, Gpu
from enginepress.engines.tables import load_table
from enginepress.errors import RecipeError

ALL = gpus.load_gpus()
TABLE = load_table("gpus")
by_name = pytest.mark.parametrize("gpu", ALL, ids=lambda g: g.name)


def test_the_gpus_that_were_promised_are_there() -> None:
    names = " ".join(gpu.name for gpu in ALL)
    for wanted in (
        *("V100", "T4", "A10", "A10G", "A30", "A40", "A100-PCIE-40GB", "A100-SXM4-80GB", "L4", "L40", "L40S", "RTX-6000-Ada"),
        *("RTX-PRO-6000-Blackwell", "H100-PCIE", "H100-SXM5", "H100-NVL", "H200-SXM5", "H200-NVL", "H20", "GH200-96GB"),
        *("GH200-144GB", "B200", "B300", "GB200"),
    ):
        assert wanted in names


@by_name
def test_what_nvidia_smi_says_is_near_what_the_box_says(gpu: Gpu) -> None:
    marketed = gpu.marketed_gb * 10**9
    assert 0.93 * marketed < gpu.memory_bytes < 1.09 * marketed, "GB and GiB differ by 7 %, reserved memory by a little"


@by_name
def test_every_column_has_a_source(gpu: Gpu) -> None:
    assert TABLE["columns"].keys() == {"memory_mib", "marketed_gb", "sm", "nvlink", "smi", "mig"}
    assert all(key in TABLE["sources"] for key in TABLE["columns"].values())
    assert all(key in TABLE["sources"] for key in TABLE["architectures"][gpu.sm]["sources"])


@by_name
def test_a_gpu_is_found_by_each_of_its_names(gpu: Gpu) -> None:
    for name in (gpu.name, gpu.name.lower(), *gpu.smi_names, *gpu.labels):
        assert gpus.find(name) is gpu, name


@by_name
def test_a_label_is_what_kubernetes_takes(gpu: Gpu) -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,61}[A-Za-z0-9]", label) for label in gpu.labels)


def test_no_name_means_two_gpus() -> None:
    spellings = [gpus._plain(name) for gpu in ALL for name in {gpu.name, *gpu.smi_names}]
    owners = {s: {g.name for g in ALL if s in {gpus._plain(n) for n in (g.name, *g.smi_names)}} for s in spellings}
    assert all(len(found) == 1 for found in owners.values())


@by_name
def test_mig_profiles_are_parts_of_the_whole(gpu: Gpu) -> None:
    for profile in gpu.mig:
        slices, gb = re.fullmatch(r"(\d)g\.(\d+)gb", profile.name).groups()  # type: ignore[union-attr]
        assert profile.memory_bytes <= gpu.memory_bytes * profile.memory_share, "a part has no more than its share"
        assert profile.memory_bytes < int(gb) * GIB
        assert profile.sm_share * (7 if len(gpu.mig) > 3 else 4) == int(slices)
        assert profile.count * profile.memory_share <= 1
        assert profile.count * profile.sm_share <= 1


@by_name
def test_only_the_last_profile_is_the_whole_gpu(gpu: Gpu) -> None:
    assert [p.memory_share == 1 for p in gpu.mig] == [False] * (len(gpu.mig) - 1) + [True] * bool(gpu.mig)


def test_where_a_profiles_memory_is_not_known_less_is_taken_than_of_any_that_is() -> None:
    known = [p.memory_bytes / (gpu.memory_bytes * p.memory_share) for gpu in ALL for p in gpu.mig if p.sourced]
    assert known
    assert min(known) >= gpus.UNKNOWN_SHARE


@pytest.mark.parametrize(
    "name",
    [
        "H100-SXM5-80GB-MIG-3g.40gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
        "h100-sxm5-80gb-mig-3G.40GB",
        "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb.me",
    ],
)
def test_a_mig_profile_is_found_by_all_spellings(name: str) -> None:
    part = gpus.find(name)
    assert (part.name, part.parent, part.sm) == ("H100-SXM5-80GB-MIG-3g.40gb", "H100-SXM5-80GB", "90")
    assert part.memory_bytes == int(39.5 * GIB)
    assert part.sm_share == Fraction(3, 7)
    assert part.nvlink == 1
    assert "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb" in part.labels
    assert gpus.find(part.name) == part


def test_a_profile_that_a_gpu_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(RecipeError, match=r"3g\.41gb") as caught:
        gpus.find("H100-SXM5-80GB-MIG-3g.41gb")
    assert "3g.40gb" in str(caught.value.fix)
    with pytest.raises(RecipeError, match=r"1g\.5gb") as caught:
        gpus.find("L4-MIG-1g.5gb")
    assert "cannot be cut" in str(caught.value.fix)


def test_a_short_name_that_means_one_gpu_is_taken() -> None:
    assert gpus.find("B300").name == "B300-288GB"
    assert gpus.find("NVIDIA H20").name == "H20-96GB"


def test_a_short_name_that_means_several_is_refused_with_all() -> None:
    with pytest.raises(RecipeError, match="H100-PCIE-80GB, H100-SXM5-80GB, H100-NVL-94GB"):
        gpus.find("H100")


def test_a_gpu_that_is_shared_in_time_is_refused() -> None:
    with pytest.raises(RecipeError, match="shared"):
        gpus.find("NVIDIA-L4-SHARED")


@pytest.mark.parametrize("name", ["A1000", "GTX 1080", "", "-", "MIG-1g.5gb", "RTX-6000"])
def test_an_unknown_name_is_an_error_that_names_some(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        gpus.find(name)
    assert caught.value.where == "engine.gpu.name"
    assert caught.value.fix


@given(st.text(max_size=40))
def test_any_text_is_a_gpu_or_a_named_error(name: str) -> None:
    found: Gpu | RecipeError
    try:
        found = gpus.find(name)
    except RecipeError as error:
        found = error
    assert found.memory_bytes > 0 if isinstance(found, Gpu) else found.where == "engine.gpu.name"


def test_sizes_are_whole_mebibytes() -> None:
    assert all(gpu.memory_bytes % MIB == 0 for gpu in ALL)
