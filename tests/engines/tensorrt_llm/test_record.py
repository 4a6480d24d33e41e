"""The engine record: on what an engine was built, and where it is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.engines import get_builder
from enginepress.engines.tensorrt_llm import commands
from enginepress.engines.tensorrt_llm.record import Here, check_servable, read_record
from enginepress.engines.tensorrt_llm.servable import check_runs_here
from enginepress.errors import BuildError, GateError
from tests.engines.stand_ins.image import Image
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.flow import BUILDER, build, convert
from tests.engines.tensorrt_llm.samples import config, recipe


@pytest.mark.parametrize(
    ("here", "message"),
    [
        (
            Here("80", 1, "1.2.1", "10.14.1.48"),
            r"built by TensorRT-LLM 1\.2\.1 .* on H100-SXM5-80GB \(SM 90\).*GPU here is SM 80",
        ),
        (Here("90", 1, "1.1.0", "10.13.3.9"), r"built by TensorRT-LLM 1\.2\.1 .*TensorRT-LLM here is 1\.1\.0"),
        (Here("90", 1, "1.2.1", "10.13.3.9"), r"with TensorRT 10\.14\.1\.48 .*TensorRT here is 10\.13\.3\.9"),
        (Here(), "there is no GPU here and there is no TensorRT-LLM here"),
    ],
)
def test_an_engine_is_refused_elsewhere_saying_both_sides(here: Here, message: str, inside: Image, tmp_path: Path) -> None:
    record = read_record(build(tmp_path, recipe(), convert(tmp_path, recipe())))
    assert record is not None
    with pytest.raises(GateError, match=message) as caught:
        check_servable(record, here)
    assert "26.07-trtllm-python-py3 on a GPU with SM 90" in (caught.value.fix or "")


def test_an_engine_of_several_ranks_is_refused_where_there_are_fewer_gpus(inside: Image, tmp_path: Path) -> None:
    two = recipe(parallelism={"tensor": 2})
    record = read_record(build(tmp_path, two, convert(tmp_path, two)))
    assert record is not None
    with pytest.raises(GateError, match="it has 2 ranks, a GPU for each, and there is 1 here") as caught:
        check_servable(record, Here("90", 1, "1.2.1", "10.14.1.48"))
    assert "on 2 GPUs with SM 90" in (caught.value.fix or "")
    check_servable(record, Here("90", 2, "1.2.1", "10.14.1.48"))


def test_a_server_is_asked_for_only_where_the_engine_runs(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build(tmp_path, recipe(), convert(tmp_path, recipe()))
    check_runs_here(engine)
    check_runs_here(tmp_path)
    monkeypatch.setenv("STAND_IN_GPUS", "NVIDIA A100-SXM4-80GB,8.0,590.44.01")
    with pytest.raises(GateError, match="the GPU here is SM 80: it would not load"):
        check_runs_here(engine)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GateError, match="there is no GPU here and there is no TensorRT-LLM here"):
        check_runs_here(engine)


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "enginepress.json").write_text(text)
    with pytest.raises(BuildError, match="is no engine record"):
        read_record(tmp_path)


def test_it_says_what_can_serve_its_engines(on: Enter) -> None:
    served = BUILDER.served_by(recipe(parallelism={"tensor": 2}))
    assert served[0] == (
        "triton in nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 with the tensorrtllm backend (TensorRT-LLM 1.2.1) "
        "on 2 x H100-SXM5-80GB (SM 90)"
    )


def test_it_is_one_of_the_builders(on: Enter) -> None:
    builder = get_builder("tensorrt_llm")
    assert builder.template(recipe()) == "tensorrt_llm_1_0"
    assert builder.converts(recipe())
    assert BUILDER.commands(config(), recipe()) == commands(config(), recipe())
