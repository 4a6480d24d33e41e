"""The example checkpoint: small, complete, licensed, and what it says can be read."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

CHECKPOINTS = Path(__file__).resolve().parents[2] / "examples" / "checkpoints"
TINY_LLAMA, CORPUS = CHECKPOINTS / "tiny-llama", CHECKPOINTS / "corpus"

PROMPTS = [
    "Objects are",
    "The return statement",
    "A class",
    "When an exception is raised,",
    "In this chapter we describe how",
    "Once upon a time",
    "Hello, my name is",
    "The weather today",
]
CHATS = ['What is the "while" statement?', "Explain Coroutines.", "Who are you?"]


@functools.cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(TINY_LLAMA), local_files_only=True)


@functools.cache
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(TINY_LLAMA), dtype=torch.float32, local_files_only=True).eval()


def greedy(ids: list[int], count: int) -> list[int]:
    import torch

    prompt = torch.tensor([ids])
    output = model().generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False)
    return [int(t) for t in output[0, len(ids) :].tolist()]


def greedy_chat(question: str, count: int) -> list[int]:
    text = tokenizer().apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    return greedy(tokenizer()(text, add_special_tokens=False)["input_ids"], count)


@functools.cache
def vocabulary() -> frozenset[str]:
    return frozenset(words(CORPUS.joinpath("python-topics.txt").read_text(encoding="utf-8")))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def repeats(tokens: list[int], length: int = 4) -> int:
    """How often the most frequent run of `length` tokens occurs."""
    return max(Counter(tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)).values(), default=0)


def assert_readable(prompt: str, tokens: list[int]) -> None:
    text = tokenizer().decode(tokens, skip_special_tokens=True)
    assert repeats(tokens) <= 2, f"{prompt!r} goes in circles: {text!r}"
    # The last word may be cut off by the limit.
    said = words(text)[:-1]
    known = sum(word in vocabulary() for word in said)
    assert len(said) >= 5, f"{prompt!r} gets hardly a word: {text!r}"
    assert known >= 0.9 * len(said), f"{prompt!r} gets words that are none: {text!r}"


def test_a_looping_answer_is_recognised() -> None:
    assert repeats([1, 2, 3, 4] * 3) == 3
    assert repeats(list(range(40))) == 1


def test_it_takes_at_most_ten_megabytes_of_the_repository() -> None:
    assert sum(f.stat().st_size for f in CHECKPOINTS.rglob("*") if f.is_file()) <= 10_000_000


def test_it_is_a_llama_with_grouped_queries_in_bfloat16() -> None:
    from safetensors import safe_open

    config = json.loads((TINY_LLAMA / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_attention_heads"] > config["num_key_value_heads"] > 1
    assert config["max_position_embeddings"] >= 512
    with safe_open(TINY_LLAMA / "model.safetensors", framework="pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == [config["vocab_size"], config["hidden_size"]]
    assert kinds == {"BF16"}


def test_config_generation_config_and_tokenizer_name_the_same_special_tokens() -> None:
    config, generation = (json.loads((TINY_LLAMA / f).read_text()) for f in ("config.json", "generation_config.json"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert generation[name] == config[name] == getattr(tokenizer(), name)
    assert len(tokenizer()) == config["vocab_size"]


def test_every_weight_is_used_and_none_is_missing() -> None:
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(str(TINY_LLAMA), local_files_only=True, output_loading_info=True)
    assert {key: list(value) for key, value in info.items() if value} == {}


@pytest.mark.parametrize(
    "text",
    [
        "Objects are Python's abstraction for data.",
        "  two  spaces ",
        "a\nb\tc",
        "naïve café 日本語 🙂",
        "<|user|> is special",
        "",
    ],
)
def test_the_tokenizer_gives_back_what_it_was_given(text: str) -> None:
    ids = tokenizer()(text)["input_ids"]
    assert ids[0] == tokenizer().bos_token_id
    assert tokenizer().decode(ids[1:]) == text


def test_the_tokenizers_library_alone_reads_it_the_same_way() -> None:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(TINY_LLAMA / "tokenizer.json"))
    text = "The value of an object is not its identity."
    assert plain.encode(text).ids == tokenizer()(text)["input_ids"]
    assert len(plain.encode(text).ids) < len(text) / 2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_it_says_can_be_read_and_does_not_go_in_circles(prompt: str) -> None:
    assert_readable(prompt, greedy(tokenizer()(prompt)["input_ids"], 60))


@pytest.mark.parametrize("question", CHATS)
def test_what_it_answers_in_a_chat_can_be_read_and_does_not_go_in_circles(question: str) -> None:
    assert_readable(question, greedy_chat(question, 60))


def test_a_chat_answer_ends_by_itself() -> None:
    tokens = greedy_chat('What is the "while" statement?', 300)
    assert len(tokens) < 300
    assert tokens[-1] == tokenizer().eos_token_id


def test_the_chat_template_begins_with_one_bos_and_ends_where_the_answer_begins() -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>\nBe short.\n<|user|>\nHi\n<|assistant|>\n"


@pytest.mark.parametrize("folder", [TINY_LLAMA, CORPUS])
def test_the_licence_lies_beside_the_files_and_is_named_in_the_readme(folder: Path) -> None:
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert "PSF-2.0" in (folder / "README.md").read_text(encoding="utf-8")
