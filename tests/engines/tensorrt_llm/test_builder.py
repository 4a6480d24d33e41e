"""The builder from end to end, with stand-ins for NVIDIA's tools in place of an image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines.tensorrt_llm import commands
from enginepress.engines.tensorrt_llm.engine_config import check_weights
from enginepress.engines.tensorrt_llm.record import Here, check_servable, read_record
from enginepress.errors import BuildError
from enginepress.recipe import Parallelism
from enginepress.steps.build import check_environment
from tests.engines.stand_ins.image import H100, Image, make_image
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.flow import BUILDER, build, convert
from tests.engines.tensorrt_llm.samples import calibration, config, recipe

# ------------------------------------------------------------------------------------------------------------------
# What comes out
# ------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_engines_with_a_record(inside: Image, tmp_path: Path) -> None:
    asked = recipe(precision="bfloat16", parallelism={"tensor": 2, "pipeline": 2}, limits={"max_batch_size": 4})
    converted = convert(tmp_path, asked)
    assert sorted(p.name for p in converted.iterdir()) == [
        "config.json",
        *(f"rank{n}.safetensors" for n in range(4)),
        "source_config.json",
    ]
    engine = build(tmp_path, asked, converted)
    assert sorted(p.name for p in engine.iterdir()) == ["config.json", "enginepress.json", *(f"rank{n}.engine" for n in range(4))]
    record = read_record(engine)
    assert record is not None
    assert json.loads((engine / "enginepress.json").read_text()) == {
        "format": 1,
        "tensorrt_llm": "1.2.1",
        "tensorrt": "10.14.1.48",
        "gpu": "H100-SXM5-80GB",
        "sm": "90",
        "driver": "590.44.01",
        "image": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        "image_digest": None,
        "world_size": 4,
        "limits": {
            "max_batch_size": 4,
            "max_beam_width": 1,
            "max_input_len": 4096,
            "max_num_tokens": 4096,
            "max_seq_len": 4096,
        },
    }
    check_servable(record, Here("90", 4, "1.2.1", "10.14.1.48"))
    assert str(tmp_path) not in (engine / "config.json").read_text(), "the engine names a path of this machine"


@pytest.mark.parametrize("asked", [{}, {"precision": "fp8"}], ids=["script", "quantize"])
def test_context_parallel_ranks_share_weights_and_have_engines_of_their_own(
    asked: dict[str, Any], inside: Image, tmp_path: Path
) -> None:
    more = {"calibration": calibration(tmp_path)} if asked else {}
    wanted = recipe(parallelism={"tensor": 2, "pipeline": 2, "context": 2}, **asked, **more)
    converted = convert(tmp_path, wanted)
    assert sorted(p.name for p in converted.glob("rank*")) == [f"rank{n}.safetensors" for n in range(4)]
    engine = build(tmp_path, wanted, converted)
    assert sorted(p.name for p in engine.glob("rank*")) == [f"rank{n}.engine" for n in range(8)]


@pytest.mark.parametrize(("files", "right"), [(1, False), (2, True), (3, False), (4, True), (5, False)])
def test_weights_are_in_a_file_for_each_part_or_for_each_rank(files: int, right: bool, tmp_path: Path) -> None:
    for rank in range(files):
        (tmp_path / f"rank{rank}.safetensors").touch()
    parallelism = Parallelism(tensor=2, context=2)
    if right:
        check_weights(tmp_path, parallelism)
    else:
        with pytest.raises(BuildError, match=r"engine\.parallelism asks for 2 \.safetensors files"):
            check_weights(tmp_path, parallelism)


def test_the_log_shows_what_was_run_and_that_is_what_plan_says(inside: Image, tmp_path: Path) -> None:
    asked = recipe(parallelism={"tensor": 2}, options={"build": {"tokens_per_block": 64}})
    build(tmp_path, asked, convert(tmp_path, asked))
    planned = commands(config(), asked)
    for log, line in zip(("convert.log", "build.log"), planned, strict=True):
        said = (tmp_path / log).read_text().splitlines()
        assert said[0].startswith("$ ")
        skip = 2 if line[0] == "python3" else 1
        assert said[0].split()[1 + skip :] == line[skip:]
        assert "Total time" in said[-1]


@pytest.mark.parametrize(
    ("version", "layout", "architecture"),
    [
        ("0.18.2", "flat", "LlamaForCausalLM"),
        ("0.18.2", "flat", "ChatGLMModel"),
        ("0.21.0", "models", "Qwen2ForCausalLM"),
        ("1.0.0", "models", "GemmaForCausalLM"),
        ("1.2.1", "models", "MambaForCausalLM"),
    ],
)
def test_the_examples_of_each_layout_are_found(
    version: str, layout: str, architecture: str, on: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(version)
    make_image(tmp_path / "image", version=version, layout=layout).enter(monkeypatch)
    converted = convert(tmp_path, recipe(precision="bfloat16"), architecture=architecture)
    build(tmp_path, recipe(precision="bfloat16"), converted)


@pytest.mark.parametrize("reading", ["v0_16", "v1"])
def test_a_release_that_was_not_read_works_with_every_reading_near_it(
    reading: str, on: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("0.20.0")
    make_image(tmp_path / "image", version="0.20.0").enter(monkeypatch, reading=reading)
    asked = recipe(precision="int4", parallelism={"tensor": 2})
    build(tmp_path, asked, convert(tmp_path, asked, architecture="GemmaForCausalLM"))


@pytest.mark.parametrize(
    "engine",
    [
        {"precision": "fp8", "kv_cache": "fp8"},
        {"precision": "int4_awq"},
        {"precision": "bfloat16", "kv_cache": "int8"},
        {"precision": "int8_sq", "options": {"convert": {"smoothquant": 0.5}}},
    ],
    ids=str,
)
def test_quantizations_are_calibrated_with_the_recipes_own_texts(engine: dict[str, Any], inside: Image, tmp_path: Path) -> None:
    asked = recipe(**engine, calibration=calibration(tmp_path), parallelism={"tensor": 2})
    converted = convert(tmp_path, asked)
    assert "--calib_dataset calibration" in (tmp_path / "convert.log").read_text()
    build(tmp_path, asked, converted)


def test_timings_are_kept_for_the_next_build_of_the_same_gpu_and_tensorrt(inside: Image, tmp_path: Path) -> None:
    converted = convert(tmp_path, recipe())
    build(tmp_path, recipe(), converted, "engines-1")
    kept = tmp_path / "workspace" / "timings" / "H100-SXM5-80GB-sm90-tensorrt-10.14.1.48.cache"
    assert kept.read_bytes() == b"timing;"
    build(tmp_path, recipe(), converted, "engines-2")
    assert kept.read_bytes() == b"timing;timing;"


def test_timings_lie_where_the_environment_says(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEPRESS_TIMING_CACHE", str(tmp_path / "shared"))
    build(tmp_path, recipe(), convert(tmp_path, recipe()))
    assert [p.name for p in (tmp_path / "shared").iterdir()] == ["H100-SXM5-80GB-sm90-tensorrt-10.14.1.48.cache"]


def test_a_place_for_timings_that_cannot_be_written_fails_nobuild(
    inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENGINEPRESS_TIMING_CACHE", str(tmp_path / "file" / "below"))
    build(tmp_path, recipe(), convert(tmp_path, recipe()))


def test_the_image_and_its_digest_are_recorded(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Enter) -> None:
    from dataclasses import replace

    from enginepress.engines.tensorrt_llm import release

    own = replace(on(), image="registry.example/trtllm:1@sha256:" + "a" * 64)
    monkeypatch.setattr(release, "target_of", lambda asked: own)
    engine = build(tmp_path, recipe(), convert(tmp_path, recipe()))
    record = read_record(engine)
    assert record is not None
    assert (record.image, record.image_digest) == (own.image, "sha256:" + "a" * 64)
    assert BUILDER.record(recipe()) == {
        "driver": "590.44.01",
        "sm": "90",
        "image": own.image,
        "image_digest": "sha256:" + "a" * 64,
    }


# ------------------------------------------------------------------------------------------------------------------
# The environment
# ------------------------------------------------------------------------------------------------------------------


def test_what_is_declared_is_what_is_installed_in_the_right_image(inside: Image) -> None:
    declared = BUILDER.declared(recipe())
    assert declared == {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "gpu": "H100-SXM5-80GB"}
    check_environment(declared, BUILDER.installed(recipe()))


def test_packaging_suffixes_are_no_difference(on: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(tmp_path / "image", tensorrt="10.14.1.48.post1").enter(monkeypatch)
    check_environment(BUILDER.declared(recipe()), BUILDER.installed(recipe()))


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        ("NVIDIA A100-SXM4-80GB,8.0,590.44.01", "gpu is NVIDIA A100-SXM4-80GB, planned was H100-SXM5-80GB"),
        (f"{H100};NVIDIA L4,8.9,590.44.01", "different kinds: NVIDIA H100 80GB HBM3, NVIDIA L4"),
        ("", "nvidia-smi failed: No devices were found"),
    ],
)
def test_another_gpu_is_refused_before_work(
    gpus: str, says: str, image: Image, on: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.enter(monkeypatch, gpus=gpus)
    with pytest.raises(BuildError, match=says):
        check_environment(BUILDER.declared(recipe()), BUILDER.installed(recipe()))


def test_another_tensorrt_llm_is_refused_before_work(on: Enter, inside: Image) -> None:
    on("1.1.0")
    with pytest.raises(BuildError, match=r"tensorrt_llm is 1\.2\.1, planned was 1\.1\.0"):
        check_environment(BUILDER.declared(recipe()), BUILDER.installed(recipe()))


def test_a_conversion_by_another_release_is_refused(on: Enter, inside: Image, tmp_path: Path) -> None:
    on("1.0.3.2510")
    with pytest.raises(BuildError, match=r"TensorRT-LLM here is 1\.2\.1, and Triton 26\.07 has 1\.0\.3\.2510"):
        convert(tmp_path, recipe())


def test_a_mig_device_has_a_name_of_its_own(inside: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_MIG", "3g.40gb")
    assert BUILDER.installed(recipe())["gpu"] == "NVIDIA H100 80GB HBM3-MIG-3g.40gb"


def test_outside_an_image_it_says_which_one(on: Enter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="trtllm-build is not here") as caught:
        BUILDER.installed(recipe())
    assert caught.value.fix == "run this step in nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"


def test_missing_examples_name_every_place(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEPRESS_TRTLLM_EXAMPLES", str(tmp_path / "none"))
    with pytest.raises(BuildError) as caught:
        convert(tmp_path, recipe(), architecture="ChatGLMModel")
    for place in ("models/core/glm-4-9b", "models/core/chatglm", "glm-4-9b", "chatglm"):
        assert f"{tmp_path}/none/{place}/convert_checkpoint.py" in caught.value.message
    assert "ENGINEPRESS_TRTLLM_EXAMPLES" in (caught.value.fix or "")


def test_the_tool_is_asked_before_it_works(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image holds another version than its name says: its own help is the last word."""
    monkeypatch.setenv("STAND_IN_READINGS", "*=v0_16")
    with pytest.raises(BuildError) as caught:
        convert(tmp_path, recipe(parallelism={"context": 2}), architecture="Qwen2ForCausalLM")
    assert "convert-qwen of TensorRT-LLM 1.2.1 does not take what would be passed to it" in caught.value.message
    assert re.search(r"it has no --cp_size; near is --[tp]p_size", caught.value.message)
    assert not (tmp_path / "convert.log").exists(), "the tool ran"


def test_a_choice_that_the_tool_lacks_is_found_by_its_help(
    inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(precision="nvfp4", calibration=calibration(tmp_path))
    monkeypatch.setenv("STAND_IN_READINGS", "*=v0_16")
    with pytest.raises(BuildError, match="--qformat: 'nvfp4' is none of fp8, int8_sq"):
        convert(tmp_path, asked)
