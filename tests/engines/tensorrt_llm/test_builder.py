"""The builder from end to end, with stand-ins for NVIDIA's tools in place of an image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines import get_builder
from enginepress.engines.tensorrt_llm import TensorRtLlmBuilder, commands
from enginepress.engines.tensorrt_llm.record import check_servable, read_record
from enginepress.errors import BuildError, EnginepressError, GateError, RecipeError, SourceError, UnsupportedModelError
from enginepress.recipe import Recipe
from enginepress.steps.build import check_environment
from tests.engines.stand_ins.image import H100, Image, make_image
from tests.engines.tensorrt_llm.conftest import Enter
from tests.engines.tensorrt_llm.samples import calibration, checkpoint, config, recipe

BUILDER = TensorRtLlmBuilder()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image-1.2.1") / "image")


@pytest.fixture
def inside(image: Image, on: Enter, monkeypatch: pytest.MonkeyPatch) -> Image:
    image.enter(monkeypatch)
    return image


def _convert(folder: Path, asked: Recipe, source: Path | None = None, **more: Any) -> Path:
    source = source or checkpoint(folder / "attempt-mpt-vila" / "cnn_dailymail", **more)
    output = folder / "workspace" / "partial" / "converted-1" / "output"
    output.mkdir(parents=True)
    BUILDER.convert(source, output, asked, folder / "convert.log")
    return output


def _build(folder: Path, asked: Recipe, converted: Path, name: str = "engines-1") -> Path:
    output = folder / "workspace" / "partial" / name / "output"
    output.mkdir(parents=True)
    BUILDER.build(converted, output, asked, folder / "build.log")
    return output


# ------------------------------------------------------------------------------------------------------------------
# What comes out
# ------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_engines_with_a_record(inside: Image, tmp_path: Path) -> None:
    asked = recipe(precision="bfloat16", parallelism={"tensor": 2, "pipeline": 2}, limits={"max_batch_size": 4})
    converted = _convert(tmp_path, asked)
    assert sorted(p.name for p in converted.iterdir()) == [
        "config.json",
        *(f"rank{n}.safetensors" for n in range(4)),
        "source_config.json",
    ]
    engine = _build(tmp_path, asked, converted)
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
    check_servable(record, sm="90", tensorrt_llm="1.2.1")
    assert str(tmp_path) not in (engine / "config.json").read_text(), "the engine names a path of this machine"


def test_the_log_shows_what_was_run_and_that_is_what_plan_says(inside: Image, tmp_path: Path) -> None:
    asked = recipe(parallelism={"tensor": 2}, options={"build": {"tokens_per_block": 64}})
    _build(tmp_path, asked, _convert(tmp_path, asked))
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
    converted = _convert(tmp_path, recipe(precision="bfloat16"), architecture=architecture)
    _build(tmp_path, recipe(precision="bfloat16"), converted)


@pytest.mark.parametrize("reading", ["v0_16", "v1"])
def test_a_release_that_was_not_read_works_with_every_reading_near_it(
    reading: str, on: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("0.20.0")
    make_image(tmp_path / "image", version="0.20.0").enter(monkeypatch, reading=reading)
    asked = recipe(precision="int4", parallelism={"tensor": 2})
    _build(tmp_path, asked, _convert(tmp_path, asked, architecture="GemmaForCausalLM"))


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
    converted = _convert(tmp_path, asked)
    assert "--calib_dataset calibration" in (tmp_path / "convert.log").read_text()
    _build(tmp_path, asked, converted)


def test_timings_are_kept_for_the_next_build_of_the_same_gpu_and_tensorrt(inside: Image, tmp_path: Path) -> None:
    converted = _convert(tmp_path, recipe())
    _build(tmp_path, recipe(), converted, "engines-1")
    kept = tmp_path / "workspace" / "timings" / "H100-SXM5-80GB-sm90-tensorrt-10.14.1.48.cache"
    assert kept.read_bytes() == b"timing;"
    _build(tmp_path, recipe(), converted, "engines-2")
    assert kept.read_bytes() == b"timing;timing;"


def test_timings_lie_where_the_environment_says(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEPRESS_TIMING_CACHE", str(tmp_path / "shared"))
    _build(tmp_path, recipe(), _convert(tmp_path, recipe()))
    assert [p.name for p in (tmp_path / "shared").iterdir()] == ["H100-SXM5-80GB-sm90-tensorrt-10.14.1.48.cache"]


def test_a_place_for_timings_that_cannot_be_written_fails_no_build(
    inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENGINEPRESS_TIMING_CACHE", str(tmp_path / "file" / "below"))
    _build(tmp_path, recipe(), _convert(tmp_path, recipe()))


def test_the_image_and_its_digest_are_recorded(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Enter) -> None:
    from dataclasses import replace

    from enginepress.engines.tensorrt_llm import release

    own = replace(on(), image="registry.example/trtllm:1@sha256:" + "a" * 64)
    monkeypatch.setattr(release, "target_of", lambda asked: own)
    engine = _build(tmp_path, recipe(), _convert(tmp_path, recipe()))
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
        _convert(tmp_path, recipe())


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
        _convert(tmp_path, recipe(), architecture="ChatGLMModel")
    for place in ("models/core/glm-4-9b", "models/core/chatglm", "glm-4-9b", "chatglm"):
        assert f"{tmp_path}/none/{place}/convert_checkpoint.py" in caught.value.message
    assert "ENGINEPRESS_TRTLLM_EXAMPLES" in (caught.value.fix or "")


def test_the_tool_is_asked_before_it_works(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image holds another version than its name says: its own help is the last word."""
    monkeypatch.setenv("STAND_IN_READINGS", "*=v0_16")
    with pytest.raises(BuildError) as caught:
        _convert(tmp_path, recipe(parallelism={"context": 2}), architecture="Qwen2ForCausalLM")
    assert "convert-qwen of TensorRT-LLM 1.2.1 does not take what would be passed to it" in caught.value.message
    assert re.search(r"it has no --cp_size; near is --[tp]p_size", caught.value.message)
    assert not (tmp_path / "convert.log").exists(), "the tool ran"


def test_a_choice_that_the_tool_lacks_is_found_by_its_help(
    inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(precision="nvfp4", calibration=calibration(tmp_path))
    monkeypatch.setenv("STAND_IN_READINGS", "*=v0_16")
    with pytest.raises(BuildError, match="--qformat: 'nvfp4' is none of fp8, int8_sq"):
        _convert(tmp_path, asked)


# ------------------------------------------------------------------------------------------------------------------
# What goes wrong while working
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "status", "message", "fix"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, "GPU's memory ran out", "max_num_tokens"),
        ("[TRT] [E] 2: [globWriter.cpp::makeResizableGpuMemory::423] Error Code 2: OutOfMemory", 1, "GPU's memory", "plan"),
        ("Loading checkpoint shards:  33%", -9, "killed, most likely because the machine's memory ran out", "workers: 1"),
        ("Loading checkpoint shards:  33%", 137, "killed", "load_by_shard"),
        ("    assert rank < model_config.mapping.world_size\nAssertionError", 1, "another number of GPUs", "engine.parallelism"),
        (
            "[TRT] [E] 6: Version tag does not match. Note: Current Version: 228",
            1,
            "another version of TensorRT",
            "same container",
        ),
        ("AssertionError: Unsupported model architecture: FooForCausalLM", 1, "no such architecture (FooForCausalLM)", "llmapi"),
        ("ImportError: TensorRT-LLM Plugin is unavailable", 1, "plugins cannot be loaded", "image as it is"),
        ("NotImplementedError: gemm_swiglu_plugin=fp8 is not supported on SM 100.", 1, "gemm_swiglu_plugin=fp8", "options.build"),
        ("cudaErrorInsufficientDriver: CUDA driver version is insufficient", 1, "driver is too old", "older engine.container"),
        ("OSError: libcuda.so.1: cannot open shared object file", 1, "no GPU here", "--gpus all"),
        ("OSError: GPU is required for inference.", 1, "no GPU here", "nvidia.com/gpu"),
        ("ValueError: GPTQ with desc_act=True is not implemented!", 1, "desc_act", "desc_act: false"),
        ("something nobody has seen", 3, "exit status 3", "read the log"),
    ],
)
def test_a_failing_tool_is_explained(
    says: str, status: int, message: str, fix: str, inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = _convert(tmp_path, recipe())
    monkeypatch.setenv("STAND_IN_SAYS", says)
    monkeypatch.setenv("STAND_IN_STATUS", str(status))
    with pytest.raises(BuildError) as caught:
        _build(tmp_path, recipe(), converted)
    assert message in caught.value.message
    assert says.splitlines()[-1] in caught.value.message
    assert fix in (caught.value.fix or "")
    assert caught.value.where == str(tmp_path / "build.log")


def test_a_conversion_fails_with_its_own_log(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SAYS", "RuntimeError: CUDA error: out of memory")
    with pytest.raises(BuildError, match="convert-llama failed: the GPU's memory ran out"):
        _convert(tmp_path, recipe())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("STAND_IN_LOSES_RANK", "1", "rank1.engine is missing: engine.parallelism asks for 2 ranks"),
        ("STAND_IN_WRITES_VERSION", "1.1.0", "TensorRT-LLM 1.1.0 instead of 1.2.1"),
        ("STAND_IN_MAX_BATCH_SIZE", "2", "max_batch_size 2 instead of 8"),
    ],
)
def test_an_engine_that_is_not_what_was_asked_for_is_no_engine(
    name: str, value: str, message: str, inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(parallelism={"tensor": 2})
    converted = _convert(tmp_path, asked)
    monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=message):
        _build(tmp_path, asked, converted)


def test_a_converted_checkpoint_without_a_rank_is_not_built(inside: Image, tmp_path: Path) -> None:
    asked = recipe(parallelism={"tensor": 2})
    converted = _convert(tmp_path, asked)
    (converted / "rank1.safetensors").unlink()
    with pytest.raises(BuildError, match=r"rank1\.safetensors is missing"):
        _build(tmp_path, asked, converted)


def test_nothing_of_the_work_stays_behind(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SAYS", "boom")
    with pytest.raises(BuildError):
        _convert(tmp_path, recipe())
    assert list((tmp_path / "workspace").rglob(".scratch")) == []


# ------------------------------------------------------------------------------------------------------------------
# What is refused before anything is downloaded
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "engine", "kind", "message", "fix"),
    [
        ({"architecture": "DeepseekV3ForCausalLM"}, {}, UnsupportedModelError, "PyTorch backend only", "llmapi"),
        ({"architecture": "GptOssForCausalLM"}, {}, UnsupportedModelError, "PyTorch backend only", "llmapi"),
        ({"architecture": "MllamaForConditionalGeneration"}, {}, UnsupportedModelError, "pictures or sound", None),
        ({"architecture": "NobodyForCausalLM"}, {}, UnsupportedModelError, "no conversion script for it", "llmapi"),
        ({"architectures": []}, {}, SourceError, "names no single architecture", None),
        ({"auto_map": {"AutoModel": "x.Y"}}, {}, SourceError, "'auto_map' names Python code", "trust_remote_code"),
        ({}, {"gpu": None}, RecipeError, "names no GPU", None),
        ({}, {"precision": "fp8"}, RecipeError, "no texts", "engine.calibration.data"),
        (
            {"architecture": "PhiForCausalLM"},
            {"parallelism": {"pipeline": 2}},
            RecipeError,
            "script for phi has no pipeline parallelism",
            "tensor",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}},
            {},
            UnsupportedModelError,
            "with desc_act",
            "desc_act: false",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            {"precision": "int4_awq"},
            RecipeError,
            "quantized already",
            "float16",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}, "architecture": "FalconForCausalLM"},
            {},
            UnsupportedModelError,
            "conversion script of falcon does not read",
            "llmapi",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, UnsupportedModelError, "quantized already", None),
        ({}, {"serving": {"engine_args": {"max_model_len": 1}}}, RecipeError, "no use for 'engine_args'", "leave"),
        (
            {"architecture": "MambaForCausalLM"},
            {"kv_cache": "int8"},
            RecipeError,
            "keeps states",
            "leave engine.kv_cache out",
        ),
    ],
)
def test_bad_input_is_refused_from_config_and_recipe_alone(
    on: Enter, changes: dict[str, Any], engine: dict[str, Any], kind: type[EnginepressError], message: str, fix: str | None
) -> None:
    with pytest.raises(kind, match=message) as caught:
        BUILDER.check(config(**changes), recipe(**engine))
    if fix is not None:
        assert fix in (caught.value.fix or "")


def test_an_fp8_cache_on_an_a100_is_refused(on: Enter) -> None:
    on(sm="80", gpu="A100-SXM4-80GB")
    with pytest.raises(RecipeError, match="needs SM 89 or newer, and A100-SXM4-80GB is SM 80"):
        BUILDER.check(config(), recipe(kv_cache="fp8"))


def test_an_architecture_that_came_later_names_the_release(on: Enter) -> None:
    on("0.20.0")
    with pytest.raises(UnsupportedModelError, match=r"it came with TensorRT-LLM 1\.0, and Triton 26\.07 has 0\.20\.0"):
        BUILDER.check(config("Qwen3ForCausalLM"), recipe())


def test_code_in_the_checkpoint_is_refused_before_any_tool(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "modeling_x.py").write_text("raise SystemExit")
    with pytest.raises(SourceError, match=r"Python code, which NVIDIA's scripts would run: modeling_x\.py"):
        _convert(tmp_path, recipe(), source)
    assert not (tmp_path / "convert.log").exists()
    trusting = recipe(source={"uri": "hf://org/name@main", "trust_remote_code": True})
    assert _convert(tmp_path / "again", trusting, source).is_dir()


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_quantized_checkpoint_that_the_script_reads_is_converted_as_it_is(method: str, inside: Image, tmp_path: Path) -> None:
    converted = _convert(tmp_path, recipe(), quantization_config={"quant_method": method, "bits": 4, "desc_act": False})
    line = (tmp_path / "convert.log").read_text().splitlines()[0]
    assert "--use_weight_only" not in line
    _build(tmp_path, recipe(), converted)


def test_a_modelopt_checkpoint_is_recognised_by_its_second_file(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})
    )
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        _convert(tmp_path, recipe(), source)


def test_a_damaged_config_is_named(inside: Image, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint")
    (source / "config.json").write_text("{")
    with pytest.raises(SourceError, match="is not JSON"):
        _convert(tmp_path, recipe(), source)


def test_every_refused_architecture_has_its_reason(on: Enter) -> None:
    from enginepress.engines.tensorrt_llm.architectures import ARCHITECTURES, REFUSED

    assert not set(REFUSED) & set(ARCHITECTURES)
    for name, reason in REFUSED.items():
        with pytest.raises(UnsupportedModelError, match=re.escape(reason)):
            BUILDER.check(config(name), recipe())


# ------------------------------------------------------------------------------------------------------------------
# Records
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"sm": "80", "tensorrt_llm": "1.2.1"}, r"built by TensorRT-LLM 1\.2\.1 on H100-SXM5-80GB \(SM 90\).*GPU here is SM 80"),
        ({"sm": "90", "tensorrt_llm": "1.1.0"}, r"built by TensorRT-LLM 1\.2\.1 .*TensorRT-LLM here is 1\.1\.0"),
        ({"sm": None, "tensorrt_llm": None}, "there is no GPU here and there is no TensorRT-LLM here"),
    ],
)
def test_an_engine_is_refused_elsewhere_saying_both_sides(
    here: dict[str, str | None], message: str, inside: Image, tmp_path: Path
) -> None:
    record = read_record(_build(tmp_path, recipe(), _convert(tmp_path, recipe())))
    assert record is not None
    with pytest.raises(GateError, match=message) as caught:
        check_servable(record, **here)  # type: ignore[arg-type]
    assert "26.07-trtllm-python-py3 on a GPU with SM 90" in (caught.value.fix or "")


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
