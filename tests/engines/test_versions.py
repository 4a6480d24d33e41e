"""versions.yaml: every cell has a source, rows are in order, and a recipe gets a container that can do what it asks."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines import gpus, versions
from enginepress.engines.tables import load_table
from enginepress.engines.versions import Container, Matrix
from enginepress.errors import RecipeError
from tests.fit.models import recipe

MATRIX = versions.load_matrix()
TABLE = load_table("versions")
IDS = [f"{row.tag}-{row.kind}" for row in MATRIX.rows]
SOURCED = ("image", "python", "tensorrt_llm", "tensorrt", "vllm", "cuda", "driver", "size_gb")
SOURCED += ("template", "precisions", "kv_cache", "renamed")


@pytest.mark.parametrize("row", MATRIX.rows, ids=IDS)
def test_every_cell_that_says_something_has_a_source(row: Container) -> None:
    for column in SOURCED:
        if getattr(row, column):
            assert row.sources.get(column), f"{row.tag} {row.kind}: nobody knows where {column} comes from"


def test_every_source_is_a_repository_with_a_path_or_an_address() -> None:
    for key, text in TABLE["sources"].items():
        assert re.match(r"https://\S+|[\w.-]+/[\w.-]+", text), key


def test_every_source_is_used() -> None:
    used: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, str):
            used.add(value)
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect({k: v for k, v in TABLE.items() if k != "sources"})
    assert TABLE["sources"].keys() <= used


@pytest.mark.parametrize(("kind", "last"), [("trtllm", "26.07"), ("vllm", "26.08")])
def test_all_releases_from_24_04_on_are_there_once_and_newest_first(kind: str, last: str) -> None:
    months = [f"{year}.{month:02}" for year in (24, 25, 26) for month in range(1, 13)]
    assert [row.tag for row in MATRIX.of_kind(kind)] == [m for m in months if "24.04" <= m <= last][::-1]


def test_versions_never_go_back_from_one_release_to_the_next() -> None:
    columns = {"trtllm": ("tensorrt_llm", "tensorrt", "cuda"), "vllm": ("vllm", "cuda")}
    for kind, column in [(kind, column) for kind, names in columns.items() for column in names]:
        # Upstream writes some versions with a fourth number and some without.
        keys = [versions.version_key(getattr(row, column))[:3] for row in MATRIX.of_kind(kind)]
        assert keys == sorted(keys, reverse=True), (kind, column)


@pytest.mark.parametrize("row", MATRIX.rows, ids=IDS)
def test_an_image_is_named_by_its_tag_and_kind(row: Container) -> None:
    assert row.image == f"nvcr.io/nvidia/tritonserver:{row.tag}-{row.kind}-python-py3"


@pytest.mark.parametrize("row", MATRIX.rows, ids=IDS)
def test_a_row_either_serves_a_builder_or_says_why_not(row: Container) -> None:
    assert set(row.builders) | row.refused.keys() == MATRIX.builders.keys()
    assert not set(row.builders) & row.refused.keys()
    assert all(len(reason) > 20 for reason in row.refused.values())
    for builder in row.builders:
        assert row.by_builder[builder], "a builder that a row serves can do something there"
        assert row.template is not None


@pytest.mark.parametrize("row", [r for r in MATRIX.of_kind("trtllm") if r.tag < "25.03"], ids=lambda r: r.tag)
def test_rows_before_0_18_only_refuse(row: Container) -> None:
    assert row.builders == ()
    assert "0.18" in row.refused["tensorrt_llm"]
    with pytest.raises(RecipeError, match=re.escape(row.tag)):
        versions.choose(recipe(container=row.tag))


def test_precisions_are_those_of_a_recipe_and_of_hardware_that_exists() -> None:
    known = {sm: set(a["precisions"]) for sm, a in load_table("gpus")["architectures"].items()}
    for row in MATRIX.rows:
        for by_sm in row.by_builder.values():
            for sm, precisions in by_sm.items():
                assert set(precisions) <= known[sm], (row.tag, sm)


@pytest.mark.parametrize(
    ("tag", "template"),
    [
        ("25.03", "tensorrt_llm_0_18"),
        ("25.04", "tensorrt_llm_0_18"),
        ("25.05", "tensorrt_llm_0_19"),
        ("25.08", "tensorrt_llm_0_19"),
        ("25.09", "tensorrt_llm_1_0"),
        ("26.07", "tensorrt_llm_1_0"),
    ],
)
def test_the_three_generations_of_templates(tag: str, template: str) -> None:
    assert MATRIX.container(tag).template == template


def test_names_of_0_18_are_what_0_18_has() -> None:
    renamed = MATRIX.container("25.04").renamed
    assert renamed["seed"] == "random_seed"
    assert renamed["return_perf_metrics"] == "return_kv_cache_reuse_stats"
    assert MATRIX.container("25.05").renamed["min_tokens"] == "min_length"
    assert "return_perf_metrics" not in MATRIX.container("25.05").renamed
    assert MATRIX.container("26.07").renamed == {}


def test_a_recipe_without_a_container_gets_the_newest_that_can() -> None:
    assert versions.choose(recipe()).tag == "26.07"
    assert versions.choose(recipe(builder="vllm")).image.endswith("26.08-vllm-python-py3")


def test_a_recipe_gets_the_container_that_it_asks_for() -> None:
    row = versions.choose(recipe(container="25.04"))
    assert (row.tag, row.tensorrt_llm) == ("25.04", "0.18.2")


def test_an_image_of_ones_own_takes_the_place_of_nvidias() -> None:
    row = versions.choose(recipe(container="25.04", image="registry.local/triton@sha256:00"))
    assert (row.image, row.tag) == ("registry.local/triton@sha256:00", "25.04")


def test_llmapi_needs_tensorrt_llm_1_0() -> None:
    with pytest.raises(RecipeError, match=r"1\.0") as caught:
        versions.choose(recipe(builder="llmapi", container="25.08"))
    assert caught.value.where == "engine.container"
    assert "26.07" in str(caught.value.fix)


def test_an_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"24\.01") as caught:
        versions.choose(recipe(container="24.01"))
    assert "24.04" in str(caught.value.fix)


def test_a_release_newer_than_all_that_are_known_points_to_the_last_one_and_to_llmapi() -> None:
    with pytest.raises(RecipeError, match=r"26\.10") as caught:
        versions.choose(recipe(container="26.10"))
    assert "26.07" in str(caught.value.fix)
    assert "llmapi" in str(caught.value.fix)


def _with_row(tag: str, version: str | None) -> Matrix:
    """The matrix with one release more."""
    table = copy.deepcopy(TABLE)
    rows = table["containers"]["trtllm"]["rows"]
    rows[tag] = {**rows["26.07"], "tensorrt_llm": version}
    return versions.parse_matrix(table)


@pytest.mark.parametrize("version", ["1.3.0", "1.2.2", "1.3.0rc25", "1.4.0", "2.0"])
def test_a_release_without_the_engine_flow_is_refused_with_the_last_that_has_it_and_the_way_on(version: str) -> None:
    matrix = _with_row("26.09", version)
    assert matrix.container("26.09").builders == ("llmapi",)
    with pytest.raises(RecipeError, match=re.escape(version)) as caught:
        versions.choose(recipe(container="26.09"), matrix)
    assert "26.07" in str(caught.value.fix)
    assert "llmapi" in str(caught.value.fix)
    assert versions.choose(recipe(), matrix).tag == "26.07", "the newest that can, not the newest"
    assert versions.choose(recipe(builder="llmapi"), matrix).tag == "26.09"


def test_a_release_whose_tensorrt_llm_nobody_knows_does_nothing() -> None:
    matrix = _with_row("26.09", None)
    assert matrix.container("26.09").builders == ()
    with pytest.raises(RecipeError, match="not known"):
        versions.choose(recipe(container="26.09"), matrix)


def test_a_cell_without_a_source_counts_as_unsupported() -> None:
    assert "103" not in MATRIX.container("26.02").precisions  # null in the table
    with pytest.raises(RecipeError, match="not known to work on B300"):
        versions.choose(recipe("B300", container="26.02"))
    assert versions.choose(recipe("B300")).tag == "26.07"


@pytest.mark.parametrize(
    ("gpu", "precision", "reason"),
    [
        ("A100-SXM4-80GB", "fp8", "SM 89"),
        ("A30", "w4a8_awq", "SM 89"),
        ("H100-SXM5-80GB", "nvfp4", "Blackwell"),
        ("L4", "nvfp4", "Blackwell"),
    ],
)
def test_a_precision_that_the_hardware_lacks_is_refused_with_what_has_it(gpu: str, precision: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        versions.choose(recipe(gpu, precision=precision))
    assert caught.value.where == "engine.precision"
    assert gpu in caught.value.message
    assert "a GPU that can" in str(caught.value.fix)


@pytest.mark.parametrize(("gpu", "reason"), [("V100-SXM2-32GB", "Volta"), ("T4", "Turing")])
@pytest.mark.parametrize("builder", ["tensorrt_llm", "llmapi"])
def test_volta_and_turing_are_refused_with_the_reason(gpu: str, reason: str, builder: str) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        versions.choose(recipe(gpu, builder=builder))
    assert caught.value.where == "engine.gpu.name"


def test_vllm_takes_a_turing_gpu_and_no_volta() -> None:
    assert versions.choose(recipe("T4", builder="vllm")).kind == "vllm"
    with pytest.raises(RecipeError, match="not known to work"):
        versions.choose(recipe("V100-SXM2-32GB", builder="vllm"))


def test_a_kv_cache_that_the_container_cannot_keep_is_refused() -> None:
    with pytest.raises(RecipeError, match="fp8") as caught:
        versions.choose(recipe("A100-SXM4-80GB", kv_cache="fp8"))
    assert caught.value.where == "engine.kv_cache"
    assert "int8" in str(caught.value.fix)
    assert versions.choose(recipe("L4", kv_cache="fp8")).tag == "26.07"


def test_the_onnxruntime_builder_has_no_container() -> None:
    with pytest.raises(RecipeError, match="needs no container"):
        versions.choose(recipe(None, builder="onnxruntime", precision="int8"))


@given(st.sampled_from([row.tag for row in MATRIX.of_kind("trtllm")]), st.sampled_from(gpus.load_gpus()), st.data())
def test_what_is_chosen_can_do_what_is_asked(tag: str, gpu: gpus.Gpu, data: st.DataObject) -> None:
    builder = data.draw(st.sampled_from(["tensorrt_llm", "llmapi", "vllm"]))
    precision = data.draw(st.sampled_from(["float16", "bfloat16", "fp8", "nvfp4", "int4_awq", "int8_sq", "w4a8_awq"]))
    container = data.draw(st.sampled_from([None, tag]))
    row: Container | RecipeError
    try:
        row = versions.choose(recipe(gpu.name, builder=builder, precision=precision, container=container))
    except RecipeError as error:
        row = error
    if isinstance(row, RecipeError):
        assert row.fix
    else:
        assert builder in row.builders
        assert precision in row.can(builder, gpu.sm)
        assert container in (None, row.tag)


# Drivers and versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [r for r in MATRIX.rows if r.builders], ids=lambda r: f"{r.tag}-{r.kind}")
def test_the_driver_that_a_container_came_with_runs_it(row: Container) -> None:
    assert row.driver is not None
    versions.check_driver(row, row.driver)


def test_a_driver_that_is_too_old_is_refused_with_both_versions_and_an_older_container() -> None:
    with pytest.raises(RecipeError, match=r"535\.104\.05.*CUDA 13") as caught:
        versions.check_driver(MATRIX.container("26.07"), "535.104.05")
    assert "580" in str(caught.value.fix)
    assert "25.10" in str(caught.value.fix), "the newest whose CUDA 12 the driver runs"
    versions.check_driver(MATRIX.container("25.10"), "535.104.05")


def test_what_is_no_driver_version_is_refused() -> None:
    with pytest.raises(RecipeError, match="no version"):
        versions.check_driver(MATRIX.container("26.07"), "new")


def test_versions_are_compared_as_numbers() -> None:
    early = ["0.9.0", "0.10.0", "0.17.0", "0.17.0.post1", "0.18.0"]
    ordered = [*early, "1.0.0", "1.0.3.2510", "1.1.0", "1.2.1", "1.3.0rc2", "1.3.0"]
    assert sorted(ordered, key=versions.version_key) == ordered
