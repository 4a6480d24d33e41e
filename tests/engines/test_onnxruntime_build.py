"""The onnxruntime builder at work: real builds of tiny checkpoints, compared with transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines import get_builder
from enginepress.errors import BuildError, SourceError
from enginepress.files import content_digest, hash_folder
from tests.engines.checkpoints import make_checkpoint, safetensors_bytes
from tests.engines.comparison import batched_answers, build, compare, engine_logits, random_prompt, recipe
from tests.engines.warm_tool import WarmBuilder

LONG_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def test_a_tied_sharded_bfloat16_llama_with_long_rope_answers_as_transformers_does(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "llama", rope_parameters=LONG_ROPE, tie_word_embeddings=True, dtype="bfloat16", shards=3
    )
    engine = build(get_builder("onnxruntime"), checkpoint)
    likeness = compare(engine, checkpoint, lengths=(5, 100, 12, 40, 230))
    assert likeness.prompts == 5
    assert likeness.logits < 5e-5
    assert sorted(p.name for p in engine.iterdir()) == ["genai_config.json", "model.onnx", "model.onnx.data"]


def test_a_mistral_attends_to_its_window_only(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "mistral", "mistral", sliding_window=32)
    likeness = compare(build(warm, checkpoint), checkpoint, lengths=(12, 100, 230))
    assert likeness.prompts == 3
    assert likeness.logits < 5e-5


def test_two_different_embeddings_in_a_checkpoint_that_calls_them_tied_are_both_used(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama", tie_word_embeddings=False)
    _change_config(checkpoint, tie_word_embeddings=True)
    likeness = compare(build(warm, checkpoint), checkpoint, lengths=(12, 40))
    assert likeness.prompts == 2
    assert likeness.logits < 5e-5


def test_an_int4_llama_runs_and_stays_near(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    likeness = compare(build(warm, checkpoint, precision="int4"), checkpoint, lengths=(12, 100))
    assert 1e-3 < likeness.logits < 0.6
    assert likeness.top > 0.25


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_bytes_from_another_folder_with_other_threads(
    warm: WarmBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_checkpoint(tmp_path / "here" / "one")
    second = make_checkpoint(tmp_path / "somewhere-else" / "with-a-longer-name")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = build(warm, first, precision="int4")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    other = build(get_builder("onnxruntime"), second, precision="int4")
    assert hash_folder(one) == hash_folder(other)
    assert content_digest(hash_folder(one)) != content_digest(hash_folder(first))


def test_the_limits_of_the_recipe_reach_the_engine(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.3, "top_k": 7, "top_p": 0.5, "eos_token_id": [1, 9]})
    )
    engine = build(warm, checkpoint, limits={"max_batch_size": 6, "max_sequence_length": 64})
    settings = json.loads((engine / "genai_config.json").read_text())
    assert settings["engine"]["static_batching"]["max_batch_size"] == 6
    assert settings["model"]["context_length"] == settings["search"]["max_length"] == 64
    neutral = {"do_sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert {key: settings["search"][key] for key in neutral} == neutral
    assert settings["model"]["eos_token_id"] == [1, 9]
    import onnxruntime_genai as og

    model = og.Model(str(engine))
    prompts = [random_prompt(length) for length in range(10, 16)]
    alone = [batched_answers(model, [prompt], 8)[0] for prompt in prompts]
    assert batched_answers(model, prompts, 8) == alone
    assert engine_logits(model, prompts[0], 64).shape == (10, 384)


def test_a_checkpoint_that_lacks_a_weight_is_refused_naming_it(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    _remove_tensor(checkpoint, "model.layers.1.self_attn.q_proj.weight")
    with pytest.raises(BuildError, match=r"lacks weights .*layers\.1\.self_attn\.q_proj\.weight"):
        build(warm, checkpoint)


def test_weights_of_another_shape_than_config_json_says_are_refused(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    _change_config(checkpoint, intermediate_size=112)
    with pytest.raises(BuildError, match=r"in another shape: .*mlp\.down_proj\.weight"):
        build(warm, checkpoint)


def test_a_truncated_shard_is_explained_and_no_scratch_is_left(warm: WarmBuilder, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    with pytest.raises(BuildError, match="weights cannot be read"):
        build(warm, checkpoint)
    assert not (tmp_path / "llama-float32" / ".scratch").exists()


def test_the_tool_sees_neither_secrets_nor_a_proxy_nor_the_network(
    warm: WarmBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def run_tool(argv: list[str], *, log: Path, env: dict[str, str], cwd: Path) -> int:
        seen.update(env=env, argv=argv)
        return WarmBuilder.run_tool(warm, argv, log=log, env=env, cwd=cwd)

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("https_proxy", "http://user:pass@proxy")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr(warm, "run_tool", run_tool)
    checkpoint = make_checkpoint(tmp_path / "llama")
    build(warm, checkpoint)
    assert "hf_secret" not in json.dumps(seen)
    assert "user:pass" not in json.dumps(seen)
    assert not [name for name in seen["env"] if "PROXY" in name.upper()]
    assert seen["env"]["HF_HUB_OFFLINE"] == seen["env"]["TRANSFORMERS_OFFLINE"] == "1"
    assert seen["env"]["TRANSFORMERS_VERBOSITY"] == "warning"
    assert "hf_remote=false" in seen["argv"]


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object"), (None, "is missing")])
def test_a_checkpoint_without_a_readable_config_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama")
    (checkpoint / "config.json").unlink()
    if text is not None:
        (checkpoint / "config.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        build(get_builder("onnxruntime"), checkpoint)


def test_everything_installed_that_can_change_the_engine_is_named_with_its_version() -> None:
    versions = get_builder("onnxruntime").declared(recipe())
    assert set(versions) == {"onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers"}
    assert all(versions.values())


def test_the_builder_converts_nothing() -> None:
    builder = get_builder("onnxruntime")
    assert (builder.name, builder.template(recipe()), builder.converts(recipe())) == ("onnxruntime", "onnxruntime", False)
    assert recipe().engine.builder == builder.name


def _change_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _remove_tensor(checkpoint: Path, name: str) -> None:
    from safetensors.numpy import load_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    del weights[name]
    path.write_bytes(safetensors_bytes(weights))
