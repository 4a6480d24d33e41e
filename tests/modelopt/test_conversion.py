"""The conversion as a whole: the process, what it writes in each form, and what ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from enginepress.engines import modelopt
from enginepress.engines.modelopt import failures
from enginepress.engines.modelopt.verify import BOUNDS, decode, verify_hugging_face, verify_tensorrt_llm
from enginepress.engines.tool_runs import offline_environment
from enginepress.errors import BuildError, SourceError, UnsupportedModelError
from enginepress.files import hash_folder
from tests.engines.checkpoints import make_checkpoint
from tests.modelopt.making import LLAMA3, SIZES, calibration_file, recipe
from tests.modelopt.test_numbers import GRANITE, NEAR, TOKENS, transformers_logits


def checkpoint_in(folder: Path, **changes: Any) -> Path:
    return make_checkpoint(folder / "checkpoint", "llama", dtype="float16", **{**SIZES, **changes})


def test_the_tool_runs_as_a_process_of_its_own_offline_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test that starts it cold, by the command that users get."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    checkpoint, output = checkpoint_in(tmp_path), tmp_path / "out"
    output.mkdir()
    modelopt.to_tensorrt_llm(checkpoint, output, recipe("float16"), tmp_path / "log")
    assert sorted(p.name for p in output.iterdir()) == ["config.json", "rank0.safetensors"]
    log = (tmp_path / "log").read_text()
    assert log.startswith(f"$ {sys.executable} -m enginepress.engines.modelopt.driver ")
    assert "enginepress: done" in log
    environment = offline_environment(os.environ, tmp_path, recipe("float16"))
    assert "hf_secret" not in environment.values()
    assert "HTTPS_PROXY" not in environment
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == environment["HF_DATASETS_OFFLINE"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int4_awq"])
def test_the_same_checkpoint_gives_the_same_bytes(precision: str, tmp_path: Path, warm: None) -> None:
    checkpoint, calibration = checkpoint_in(tmp_path), calibration_file(tmp_path)
    digests = []
    for name in ("one", "two"):
        output = tmp_path / name
        output.mkdir()
        made = recipe(precision, calibration=calibration, parallelism={"tensor": 2})
        modelopt.to_tensorrt_llm(checkpoint, output, made, tmp_path / "log")
        digests.append(hash_folder(output))
    assert digests[0] == digests[1]


def test_a_sharded_checkpoint_is_read_whole(tmp_path: Path, warm: None) -> None:
    one = checkpoint_in(tmp_path / "a")
    many = make_checkpoint(tmp_path / "b" / "checkpoint", "llama", dtype="float16", shards=3, **SIZES)
    digests = []
    for checkpoint in (one, many):
        output = checkpoint.parent / "out"
        output.mkdir()
        modelopt.to_tensorrt_llm(checkpoint, output, recipe("float16"), tmp_path / "log")
        digests.append(hash_folder(output))
    assert digests[0] == digests[1]


# ------------------------------------------------------------------------------------------------------------------
# Hugging Face form
# ------------------------------------------------------------------------------------------------------------------


def quantized(folder: Path, precision: str, family: str = "llama", **changes: Any) -> tuple[Path, Path]:
    sizes = {**SIZES, **changes} if family in ("llama", "mistral", "qwen3") else {**SIZES, **changes, "head_dim": 32}
    checkpoint, output = make_checkpoint(folder / "checkpoint", family, dtype="float16", **sizes), folder / "quantized"
    output.mkdir()
    modelopt.to_hugging_face(checkpoint, output, recipe(precision, calibration=calibration_file(folder)), folder / "log")
    return checkpoint, output


def decoded(output: Path, folder: Path) -> Path:
    """A plain checkpoint of the weights that the quantized one stands for, with its own config.json."""
    tensors = load_file(output / "model.safetensors")
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((".weight", ".bias")):
            scale, before = tensors.get(f"{name}_scale"), tensors.get(name.removesuffix("weight") + "pre_quant_scale")
            nvfp4 = scale is not None and scale.dtype == torch.float8_e4m3fn
            weight = tensor if scale is None else decode(tensor, scale, tensors[f"{name}_scale_2"] if nvfp4 else None)
            plain[name] = (weight.float() if before is None else weight.float() * before.float()).contiguous()
    folder.mkdir()
    config = json.loads((output / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "precision",
    [
        "fp8",
        "int4_awq",
        "nvfp4",
        pytest.param("int8_sq", marks=pytest.mark.slow),
        pytest.param("w4a8_awq", marks=pytest.mark.slow),
    ],
)
def test_a_quantized_hugging_face_checkpoint_stands_for_the_same_model(precision: str, tmp_path: Path, warm: None) -> None:
    checkpoint, output = quantized(tmp_path, precision, rope_parameters=LLAMA3)
    ours, theirs = transformers_logits(decoded(output, tmp_path / "plain")), transformers_logits(checkpoint)
    assert 1e-3 < (ours - theirs).norm() / theirs.norm() < NEAR[precision]
    assert len(TOKENS) > 64


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int4_awq"])
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "granite"])
def test_every_family_has_a_hugging_face_form(family: str, precision: str, tmp_path: Path, warm: None) -> None:
    extra = {"mistral": {"sliding_window": None}, "granite": GRANITE}.get(family, {})
    checkpoint, output = quantized(tmp_path, precision, family, **extra)
    ours, theirs = transformers_logits(decoded(output, tmp_path / "plain")), transformers_logits(checkpoint)
    assert 1e-3 < (ours - theirs).norm() / theirs.norm() < NEAR[precision]


def test_the_config_says_the_rope_in_both_spellings_and_the_tokenizer_comes_along(tmp_path: Path, warm: None) -> None:
    checkpoint, output = quantized(tmp_path, "fp8", rope_parameters=LLAMA3)
    config = json.loads((output / "config.json").read_text())
    assert config["rope_parameters"] == LLAMA3
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"] == {"type": "llama3", **{k: v for k, v in LLAMA3.items() if k != "rope_theta"}}
    assert config["dtype"] == config["torch_dtype"] == "float16"
    assert config["quantization_config"]["quant_method"] == "modelopt"
    assert json.loads((output / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == "FP8"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (checkpoint / name).read_bytes()


# ------------------------------------------------------------------------------------------------------------------
# Comparing with the checkpoint
# ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("fp8")
    checkpoint, output = checkpoint_in(folder), folder / "out"
    output.mkdir()
    made = recipe("fp8", calibration=calibration_file(folder), parallelism={"tensor": 2, "pipeline": 2})
    modelopt.to_tensorrt_llm(checkpoint, output, made, folder / "log")
    return checkpoint, output


LAYER = "transformer.layers.0"


@pytest.mark.parametrize(
    ("rank", "tensor", "change"),
    [
        (0, "transformer.vocab_embedding.weight", lambda t: t.flip(0)),
        (2, "transformer.ln_f.weight", lambda t: t + 0.01),
        (3, "lm_head.weight", lambda t: t.roll(1, 0)),
        (0, f"{LAYER}.input_layernorm.weight", lambda t: t * 1.01),
        (1, f"{LAYER}.attention.qkv.weight", lambda t: t.roll(32, 0)),
        (3, f"{LAYER}.attention.qkv.weights_scaling_factor", lambda t: t * 1.3),
        (0, f"{LAYER}.attention.dense.weight", lambda t: t.roll(32, 1)),
        (2, f"{LAYER}.mlp.proj.weights_scaling_factor", lambda t: t * 0),
        (2, f"{LAYER}.mlp.fc.activation_scaling_factor", lambda t: t * float("nan")),
        (1, f"{LAYER}.mlp.gate.weight", lambda t: t.flip(1)),
    ],
)
def test_a_tensor_that_is_not_the_checkpoints_is_found(
    fp8: tuple[Path, Path], rank: int, tensor: str, change: Any, tmp_path: Path
) -> None:
    checkpoint, output = fp8
    for file in output.iterdir():
        (tmp_path / file.name).symlink_to(file)
    verify_tensorrt_llm(checkpoint, tmp_path)
    tensors = load_file(output / f"rank{rank}.safetensors")
    tensors[tensor] = change(
        tensors[tensor].view(torch.uint8) if tensors[tensor].dtype == torch.float8_e4m3fn else tensors[tensor]
    )
    if tensors[tensor].dtype == torch.uint8:
        tensors[tensor] = tensors[tensor].view(torch.float8_e4m3fn)
    (tmp_path / f"rank{rank}.safetensors").unlink()
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / f"rank{rank}.safetensors")
    with pytest.raises(BuildError, match=f"rank {rank}, {tensor.removesuffix('s_scaling_factor').replace('weight', 'weight')}"):
        verify_tensorrt_llm(checkpoint, tmp_path)


def test_ranks_that_changed_places_are_found(fp8: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, output = fp8
    for file in output.iterdir():
        (
            tmp_path
            / {"rank0.safetensors": "rank1.safetensors", "rank1.safetensors": "rank0.safetensors"}.get(file.name, file.name)
        ).symlink_to(file)
    with pytest.raises(BuildError, match="rank 0, transformer"):
        verify_tensorrt_llm(checkpoint, tmp_path)


def test_a_tensor_that_was_left_out_is_found(fp8: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, output = fp8
    for file in output.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for rank in (0, 1):
        tensors = load_file(output / f"rank{rank}.safetensors")
        del tensors[f"{LAYER}.mlp.gate.weight"]
        (tmp_path / f"rank{rank}.safetensors").unlink()
        save_file(tensors, tmp_path / f"rank{rank}.safetensors")
    with pytest.raises(BuildError, match=r"left out the checkpoint's 'model.layers.0.mlp.up_proj.weight'"):
        verify_tensorrt_llm(checkpoint, tmp_path)


def test_a_wrong_tensor_of_a_hugging_face_checkpoint_is_found(tmp_path: Path, warm: None) -> None:
    checkpoint, output = quantized(tmp_path, "int4_awq")
    verify_hugging_face(checkpoint, output)
    tensors = load_file(output / "model.safetensors")
    for name, change, says in (
        ("model.layers.1.mlp.up_proj.weight", lambda t: t.flip(0), "model.layers.1.mlp.up_proj.weight: decoded, it differs by"),
        ("model.norm.weight", lambda t: t * 1.01, "model.norm.weight: is not what"),
        ("model.layers.0.input_layernorm.weight", lambda t: t * 3, "model.layers.0.self_attn.k_proj.weight: decoded"),
        ("model.layers.0.mlp.extra", None, "'model.layers.0.mlp.extra', which the checkpoint does not have"),
    ):
        changed = {**tensors, name: change(tensors[name]).contiguous() if change else torch.ones(1)}
        save_file(changed, output / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BuildError, match=says):
            verify_hugging_face(checkpoint, output)


def test_bounds_lie_between_rounding_and_another_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator)
    scale = weight.abs().max() / 448
    rounded = decode((weight / scale).to(torch.float8_e4m3fn), scale, None)
    error = ((rounded - weight).norm() / weight.norm()).item()
    assert error < BOUNDS["FP8"] / 2
    assert max(BOUNDS.values()) < 0.5


# ------------------------------------------------------------------------------------------------------------------
# What ends it
# ------------------------------------------------------------------------------------------------------------------


def test_weights_that_are_missing_end_it_by_name(tmp_path: Path, warm: None) -> None:
    checkpoint, output = checkpoint_in(tmp_path), tmp_path / "out"
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    output.mkdir()
    with pytest.raises(BuildError) as raised:
        modelopt.to_tensorrt_llm(checkpoint, output, recipe("float16"), tmp_path / "log")
    assert "the checkpoint lacks weights that config.json asks for" in raised.value.message
    assert "model.layers.1.mlp.up_proj.weight" in raised.value.message
    assert raised.value.where == str(tmp_path / "log")
    assert list(output.iterdir()) == []


def test_what_transformers_reads_otherwise_ends_it(tmp_path: Path, warm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rope that we read otherwise than transformers does: here by a fault put into ours."""
    monkeypatch.setattr(modelopt, "model_fields", lambda config: {**fields(config), "rotary_base": 20000.0})
    fields = modelopt.fields.model_fields
    checkpoint, output = checkpoint_in(tmp_path), tmp_path / "out"
    output.mkdir()
    with pytest.raises(BuildError, match=r"'rotary_base' is 20000.0 in config.json, and transformers reads it as 10000.0"):
        modelopt.to_tensorrt_llm(checkpoint, output, recipe("float16"), tmp_path / "log")


def test_pickle_files_are_not_read(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path)
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(SourceError, match="no safetensors files"):
        modelopt.to_tensorrt_llm(checkpoint, tmp_path / "out", recipe("float16"), tmp_path / "log")


def test_a_checkpoint_that_says_in_another_file_that_it_is_quantized_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path)
    (checkpoint / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(UnsupportedModelError, match="quantized already \\(ModelOpt FP8\\)"):
        modelopt.to_tensorrt_llm(checkpoint, tmp_path / "out", recipe("float16"), tmp_path / "log")


def test_a_missing_modelopt_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelopt, "PACKAGES", ("nvidia-modelopt-that-nobody-has", "torch"))
    with pytest.raises(BuildError, match="no nvidia-modelopt-that-nobody-has") as raised:
        modelopt.versions()
    assert raised.value.fix is not None
    assert "enginepress[modelopt]" in raised.value.fix


def test_versions_are_those_that_are_installed() -> None:
    assert set(modelopt.versions()) == {"nvidia-modelopt", "torch", "transformers"}


@pytest.mark.parametrize(
    ("status", "text", "message", "fix"),
    [
        (-signal.SIGKILL, "Inserted 56 quantizers", "killed, most likely because memory ran out", "about 7.5 GiB"),
        (137, "", "killed, most likely because memory ran out", "about 7.5 GiB"),
        (-signal.SIGTERM, "", "ended by SIGTERM", "read the log"),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory", "memory ran out", "about 7.5 GiB"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "the GPU's memory ran out", "CUDA_VISIBLE_DEVICES"),
        (1, "OSError: [Errno 28] No space left on device", "no space left", "free some space"),
        (1, "ModuleNotFoundError: No module named 'modelopt'", "No module named 'modelopt'", "pip install"),
        (1, "NotImplementedError: Cannot export it", "cannot convert this model (Cannot export it)", "docs/modelopt.md"),
        (
            1,
            "enginepress error: rank 0, x: is not what the checkpoint has",
            "rank 0, x: is not what",
            "nothing that came out wrong",
        ),
        (1, "enginepress: calibration batch 1\nsomething else", "exit status 1", "read the log"),
    ],
)
def test_a_failure_is_explained_with_what_to_do(status: int, text: str, message: str, fix: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"$ tool\nTraceback (most recent call last):\n{text}\n")
    error = failures.conversion_failure(status, log, memory_gib=7.5)
    assert message in error.message
    assert error.fix is not None
    assert fix in error.fix
    assert error.where == str(log)
