"""What a failed run of the model builder is explained as."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from enginepress.engines.onnxruntime.failures import build_failure, unfound_weights


@pytest.mark.parametrize(
    ("status", "text", "message", "fix"),
    [
        (-signal.SIGKILL, "Reading layer 3", "killed, most likely because memory ran out", "about 7.5 GiB"),
        (137, "Reading layer 3", "killed, most likely because memory ran out", "about 7.5 GiB"),
        (-signal.SIGTERM, "Reading layer 3", "ended by SIGTERM", "read the log"),
        (-signal.SIGSEGV, "", "ended by SIGSEGV", "read the log"),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "memory ran out", "about 7.5 GiB"),
        (1, "numpy._core._exceptions._ArrayMemoryError: MemoryError", "memory ran out", "about 7.5 GiB"),
        (1, "OSError: [Errno 28] No space left on device: 'model.onnx.data'", "no space left", "free some space"),
        (1, "ModuleNotFoundError: No module named 'onnx_ir'", "No module named 'onnx_ir'", "pip install"),
        (1, "NotImplementedError: The x model is not currently supported.", "x model is not currently supported", "docs"),
        (1, "Please pass the argument `trust_remote_code=True`", "run its own code", "source.trust_remote_code"),
        (1, "safetensors_rust.SafetensorError: Error: MetadataIncompleteBuffer", "weights cannot be read", "--force"),
        (3, "something else", "exit status 3", "read the log"),
    ],
)
def test_a_failure_is_explained_with_what_to_do(status: int, text: str, message: str, fix: str, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"$ tool\nTraceback (most recent call last):\n{text}\n")
    error = build_failure(status, log, memory_gib=7.5)
    assert message in error.message
    assert text in error.message
    assert error.fix is not None
    assert fix in error.fix
    assert error.where == str(log)


def test_a_failure_that_is_understood_is_told_without_the_tools_traceback(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    frames = '  File "core.py", line 218, in tofile\n    file.write(data)\n' * 9
    log.write_text(f"Traceback (most recent call last):\n{frames}OSError: [Errno 28] No space left on device\ncleaning up\n")
    message = build_failure(1, log, memory_gib=1).message
    assert message.splitlines()[1:] == ["OSError: [Errno 28] No space left on device", "cleaning up"]
    log.write_text(f"Traceback (most recent call last):\n{frames}ValueError: who knows\n")
    assert "core.py" in build_failure(1, log, memory_gib=1).message


def test_a_missing_log_is_no_second_failure(tmp_path: Path) -> None:
    assert "exit status 1" in build_failure(1, tmp_path / "none.log", memory_gib=1).message


def test_weights_that_were_not_found_are_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(
        "[transformers] \x1b[1mLlamaForCausalLM LOAD REPORT\x1b[0m from: /x\n"
        "Key                                         | Status     | \n"
        "--------------------------------------------+------------+-\n"
        "model.layers.0.self_attn.q_norm.weight      | UNEXPECTED | \n"
        "model.layers.{0, 1}.self_attn.q_proj.weight | MISSING    | \n"
        "model.norm.weight                           | \x1b[33mMISMATCH\x1b[0m   | Reinit due to size mismatch\n"
        "- MISSING:\tthose params were newly initialized because missing from the checkpoint.\n"
    )
    assert unfound_weights(log) == ["model.layers.{0, 1}.self_attn.q_proj.weight", "model.norm.weight"]
