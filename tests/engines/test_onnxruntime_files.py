"""What the onnxruntime builder changes in the checkpoint's view and in the engine folder, without running the tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines.onnxruntime.files import (
    adapted_config,
    finish_engine,
    served_settings,
    shares_embeddings,
    view_checkpoint,
)
from enginepress.engines.onnxruntime.model import ModelConfig, read_model_config
from enginepress.errors import BuildError, SourceError
from enginepress.recipe import Limits
from tests.engines.checkpoints import make_checkpoint, safetensors_bytes


def _config(checkpoint: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return config


def _model(checkpoint: Path, **changes: Any) -> ModelConfig:
    return read_model_config({**_config(checkpoint), **changes})


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "llama")


def test_a_llamas_config_is_left_as_it_is(llama: Path) -> None:
    assert adapted_config(_model(llama)) == _config(llama)


def test_a_view_links_every_file_and_leaves_the_checkpoint_untouched(llama: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in llama.iterdir()}
    view_checkpoint(llama, tmp_path / "view", _model(llama))
    assert {path.name for path in (tmp_path / "view").iterdir()} == before.keys()
    assert (tmp_path / "view" / "model.safetensors").resolve() == llama / "model.safetensors"
    assert not (tmp_path / "view" / "config.json").is_symlink()
    assert {path.name: path.read_bytes() for path in llama.iterdir()} == before


@pytest.mark.parametrize(("architecture", "model_type"), [("MistralForCausalLM", "mistral"), ("Phi3ForCausalLM", "phi3")])
def test_a_window_of_all_layers_is_spelled_out_per_layer(architecture: str, model_type: str, llama: Path) -> None:
    named = {"architectures": [architecture], "model_type": model_type}
    windowed = adapted_config(_model(llama, **named, sliding_window=32))
    assert windowed["layer_types"] == ["sliding_attention", "sliding_attention"]
    assert "layer_types" not in adapted_config(_model(llama, **named, sliding_window=None))


def test_phi3_without_longrope_is_told_that_its_context_never_changed(llama: Path) -> None:
    named = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}
    assert adapted_config(_model(llama, **named))["original_max_position_embeddings"] == 256
    longrope = {"rope_type": "longrope", "short_factor": [1.0], "original_max_position_embeddings": 64}
    adapted = adapted_config(_model(llama, **named, rope_parameters=longrope))
    assert adapted["rope_parameters"] == {**longrope, "type": "longrope"}
    assert "original_max_position_embeddings" not in adapted


def test_families_that_lose_digits_in_bfloat16_are_read_in_float32(llama: Path) -> None:
    model = _model(llama, architectures=["GemmaForCausalLM"], model_type="gemma", torch_dtype="bfloat16", dtype=None)
    adapted = adapted_config(model)
    assert adapted["dtype"] == "float32"
    assert "torch_dtype" not in adapted


@pytest.mark.parametrize(
    ("tied", "head", "shared"),
    [
        (False, "other", None),
        (True, "none", None),
        (True, "same", None),
        (True, "other", False),
        (None, "other", False),
        (True, "wider", False),
    ],
)
def test_embeddings_are_shared_only_if_they_are_the_same(tied: bool | None, head: str, shared: bool | None, llama: Path) -> None:
    import numpy as np

    embedding = np.arange(12, dtype=np.float32).reshape(4, 3)
    heads = {"same": embedding, "other": embedding + 1, "wider": np.zeros((4, 4), dtype=np.float32)}
    (llama / "model.safetensors").write_bytes(safetensors_bytes({"model.embed_tokens.weight": embedding}))
    if head in heads:
        (llama / "model-2.safetensors").write_bytes(safetensors_bytes({"lm_head.weight": heads[head]}))
    assert shares_embeddings(llama, _model(llama, tie_word_embeddings=tied)) is shared


def test_embeddings_in_pickle_files_are_not_shared(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    assert shares_embeddings(llama, _model(llama, tie_word_embeddings=True)) is False


@pytest.mark.parametrize(
    "data", [b"", b"1234", b"\xff" * 64, (5).to_bytes(8, "little") + b"{nope", (2).to_bytes(8, "little") + b"[]"]
)
def test_a_file_that_is_no_safetensors_file_is_named(data: bytes, llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(data)
    with pytest.raises(SourceError, match="not a safetensors file") as caught:
        shares_embeddings(llama, _model(llama, tie_word_embeddings=True))
    assert caught.value.where == str(llama / "model.safetensors")


TOOL = {"model": {"context_length": 256, "type": "llama"}, "search": {"do_sample": True, "top_k": 50, "max_length": 256, "x": 1}}


def test_settings_are_neutral_and_keep_what_is_not_ours() -> None:
    settings = served_settings(TOOL, Limits(max_batch_size=3))
    assert settings["model"] == TOOL["model"]
    assert settings["search"]["x"] == 1
    assert (settings["search"]["do_sample"], settings["search"]["top_k"], settings["search"]["max_length"]) == (False, 0, 256)
    assert settings["engine"] == {"static_batching": {"max_batch_size": 3}}


def test_a_shorter_length_is_set_everywhere() -> None:
    settings = served_settings(TOOL, Limits(max_sequence_length=100))
    assert settings["model"]["context_length"] == settings["search"]["max_length"] == 100


def test_what_the_engine_does_not_load_is_removed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    (tmp_path / "genai_config.json").write_text(json.dumps(TOOL))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    finish_engine(tmp_path, Limits())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genai_config.json", "model.onnx", "model.onnx.data"]
    assert json.loads((tmp_path / "genai_config.json").read_text()) == served_settings(TOOL, Limits())


def test_an_engine_without_its_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(BuildError, match=r"wrote no genai_config\.json and no model\.onnx\.data"):
        finish_engine(tmp_path, Limits())
