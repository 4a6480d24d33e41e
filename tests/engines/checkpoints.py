"""Tiny checkpoints with random weights, in Hugging Face's layout, made in the test that needs them, without a network.

    folder/config.json  generation_config.json  model.safetensors (or shards and model.safetensors.index.json)
           tokenizer.json  tokenizer_config.json  special_tokens_map.json  chat_template.jinja

`make_checkpoint(folder, "llama")` needs neither torch nor transformers and takes milliseconds; every other family is made
by transformers. The weights depend on the seed only. Biases and norms are random as well: transformers starts biases
at zero and norms at one, which would hide an engine that forgets them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL_TOKENS = (BOS, EOS, PAD)
VOCAB_SIZE = 384

_CORPUS = (
    "the quick brown fox jumps over the lazy dog while the other fox sleeps in the brown grass near the old river",
    "once upon a time there was a small model that could answer every question that the people of the town asked it",
    "a release is a validated and versioned model repository, and a channel is a movable name for one release of it",
    "permission is hereby granted, free of charge, to any person obtaining a copy of this software and its documents",
)

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}

_LLAMA: dict[str, Any] = {
    **_SMALL,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def make_checkpoint(
    folder: Path, family: str = "llama", *, seed: int = 0, dtype: str = "float32", shards: int = 1, **config_overrides: Any
) -> Path:
    """Writes a tiny checkpoint.

    Args:
        folder: made if it is not there.
        family: transformers' model_type: "llama", "mistral", "qwen2", "granite", …
        dtype: "float32", "bfloat16" or "float16".
        shards: in how many safetensors files the weights are.
        config_overrides: keys of config.json.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if family == "llama":
        config = {**_LLAMA, "dtype": dtype, **config_overrides}
        weights = _llama_weights(config, seed)
    else:
        config, weights = _transformers_weights(family, seed, {**_SMALL, "dtype": dtype, **config_overrides})
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {k: config.get(k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")})
    write_weights(folder, weights, dtype=dtype, shards=shards)
    write_tokenizer(folder)
    return folder


# ------------------------------------------------------------------------------------------------------------------
# Weights
# ------------------------------------------------------------------------------------------------------------------


def write_weights(folder: Path, weights: Mapping[str, Any], *, dtype: str = "float32", shards: int = 1) -> None:
    """Writes numpy arrays as safetensors, with an index if there are several files."""
    names = list(weights)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(weights, dtype))
        return
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        (folder / file).write_bytes(safetensors_bytes(part, dtype))
        index.update(dict.fromkeys(part, file))
    size = sum(w.size for w in weights.values()) * (4 if dtype == "float32" else 2)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def safetensors_bytes(weights: Mapping[str, Any], dtype: str = "float32") -> bytes:
    """The safetensors file of these float32 arrays, stored as `dtype` (bfloat16 by truncation)."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    offset = 0
    for name, array in weights.items():
        data = np.ascontiguousarray(array, dtype=np.float32)
        if dtype == "bfloat16":
            code, block = "BF16", (data.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        elif dtype == "float16":
            code, block = "F16", data.astype(np.float16).tobytes()
        else:
            code, block = "F32", data.tobytes()
        header[name] = {"dtype": code, "shape": list(data.shape), "data_offsets": [offset, offset + len(block)]}
        blocks.append(block)
        offset += len(block)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(blocks)


def _llama_weights(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    import numpy as np

    generator = np.random.default_rng(seed)
    return {name: _random(generator, name, shape) for name, shape in _llama_shapes(config)}


def _llama_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        for name, rows, columns in (("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, columns)
            if config["attention_bias"]:
                yield f"{prefix}.self_attn.{name}_proj.bias", (rows,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"{prefix}.mlp.{name}_proj.weight", (rows, columns)
            if config["mlp_bias"]:
                yield f"{prefix}.mlp.{name}_proj.bias", (rows,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _random(generator: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Matrices keep the size of what passes through them, so that the logits spread and few of them nearly tie."""
    noise = generator.standard_normal(shape, dtype="float32")
    if len(shape) == 1:
        return 0.2 * noise + (0.0 if name.endswith("bias") else 1.0)
    return noise * (1.0 if "embed" in name else 1.5 / math.sqrt(shape[-1]))


def _transformers_weights(family: str, seed: int, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **fields)
    from_config: Any = AutoModelForCausalLM.from_config
    model = from_config(config)
    generator = np.random.default_rng(seed)
    weights = {
        name: _random(generator, name, tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if not (name == "lm_head.weight" and config.tie_word_embeddings)
    }
    return {**config.to_dict(), "architectures": [type(model).__name__]}, weights


# ------------------------------------------------------------------------------------------------------------------
# Tokenizer
# ------------------------------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer that puts <s> before every text, as Llama's does, and a chat template."""
    (folder / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, "clean_up_tokenization_spaces": False}
    _write_json(folder / "tokenizer_config.json", {**settings, **tokens})
    _write_json(folder / "special_tokens_map.json", tokens)
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")


@functools.cache
def _tokenizer_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, "the corpus is too small for the vocabulary"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    text: str = tokenizer.to_str(pretty=False)
    return text


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
