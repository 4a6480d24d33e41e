"""What goes wrong while NVIDIA's tools work is explained, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.errors import BuildError
from tests.engines.stand_ins.image import Image
from tests.engines.tensorrt_llm.flow import build, convert
from tests.engines.tensorrt_llm.samples import recipe


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
        ("UserWarning: `trust_remote_code` is not supported anymore.", -9, "killed", "workers: 1"),
        ("UserWarning: `trust_remote_code` is not supported anymore.", 2, "exit status 2", "read the log"),
        (
            "ValueError: The repository x contains custom code which must be executed to correctly load the model.\n"
            "Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
            1,
            "wants to run its own code",
            "source.trust_remote_code",
        ),
        ("loading", -7, "ended by SIGBUS, most likely because its shared memory", "--shm-size"),
        ("something nobody has seen", 3, "exit status 3", "read the log"),
    ],
)
def test_a_failing_tool_is_explained(
    says: str, status: int, message: str, fix: str, inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert(tmp_path, recipe())
    monkeypatch.setenv("STAND_IN_SAYS", says)
    monkeypatch.setenv("STAND_IN_STATUS", str(status))
    with pytest.raises(BuildError) as caught:
        build(tmp_path, recipe(), converted)
    assert message in caught.value.message
    assert says.splitlines()[-1] in caught.value.message
    assert fix in (caught.value.fix or "")
    assert caught.value.where == str(tmp_path / "build.log")


def test_a_conversion_fails_with_its_own_log(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SAYS", "RuntimeError: CUDA error: out of memory")
    with pytest.raises(BuildError, match="convert-llama failed: the GPU's memory ran out"):
        convert(tmp_path, recipe())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("STAND_IN_LOSES_RANK", "1", "rank1.engine is missing: engine.parallelism asks for 2 .engine files"),
        ("STAND_IN_WRITES_VERSION", "1.1.0", "TensorRT-LLM 1.1.0 instead of 1.2.1"),
        ("STAND_IN_MAX_BATCH_SIZE", "2", "max_batch_size 2 instead of 8"),
    ],
)
def test_an_engine_that_is_not_what_was_asked_for_is_no_engine(
    name: str, value: str, message: str, inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(parallelism={"tensor": 2})
    converted = convert(tmp_path, asked)
    monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=message):
        build(tmp_path, asked, converted)


def test_a_converted_checkpoint_without_a_rank_is_not_built(inside: Image, tmp_path: Path) -> None:
    asked = recipe(parallelism={"tensor": 2})
    converted = convert(tmp_path, asked)
    (converted / "rank1.safetensors").unlink()
    with pytest.raises(BuildError, match=r"rank1\.safetensors is missing"):
        build(tmp_path, asked, converted)


def test_nothing_of_the_work_stays_behind(inside: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SAYS", "boom")
    with pytest.raises(BuildError):
        convert(tmp_path, recipe())
    assert list((tmp_path / "workspace").rglob(".scratch")) == []
