"""Engines that were built for another machine are refused before a server is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.engines.tensorrt_llm.record import EngineRecord, write_record
from enginepress.errors import GateError
from enginepress.serving.servable import check_servable_here
from tests.engines.stand_ins.image import make_image


def _repository(folder: Path, *, sm: str = "90", version: str = "1.2.1") -> Path:
    engine = folder / "tiny-engine" / "7" / "engine"
    engine.mkdir(parents=True)
    record = EngineRecord(
        tensorrt_llm=version,
        tensorrt="10.14.1.48",
        gpu="H100-SXM5-80GB",
        sm=sm,
        driver="590.44.01",
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        image_digest=None,
        world_size=1,
        limits={"max_batch_size": 8},
    )
    write_record(engine, record)
    return folder


def test_an_engine_of_this_machine_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(tmp_path / "image").enter(monkeypatch)
    check_servable_here(_repository(tmp_path / "repository"))


@pytest.mark.parametrize(
    ("built", "said"),
    [
        ({"sm": "89"}, "the GPU here is SM 90"),
        ({"version": "1.1.0"}, "TensorRT-LLM here is 1.2.1"),
    ],
)
def test_an_engine_of_another_machine_is_refused_saying_both_sides(
    built: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(tmp_path / "image").enter(monkeypatch)
    with pytest.raises(GateError) as caught:
        check_servable_here(_repository(tmp_path / "repository", **built))
    assert said in caught.value.message
    assert f"(SM {built.get('sm', '90')})" in caught.value.message
    assert f"TensorRT-LLM {built.get('version', '1.2.1')} with TensorRT 10.14.1.48 on" in caught.value.message


def test_a_machine_without_gpu_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(GateError, match="there is no GPU here and there is no TensorRT-LLM here"):
        check_servable_here(_repository(tmp_path / "repository"))


def test_a_repository_without_such_engines_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "tiny" / "1" / "engine").mkdir(parents=True)
    check_servable_here(tmp_path)
