"""Inputs: honoured, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_errors import RequestError
from llm_request import INPUT_NAMES, Preparer, Request, Sampling, read_inputs
from llm_settings import EngineFacts, Settings, SettingsError
from llm_tokenizer import Tokenizer

from tests.templates.ask import TYPES
from tests.templates.repository import read_config
from tests.templates.tokenizers_for_tests import KINDS, write_tokenizer

_NUMPY = {"BYTES": np.object_, "INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32, "UINT64": np.uint64}
_FACTS = EngineFacts(context_length=64, vocab_size=1000, pad_token_id=0, eos_token_ids=frozenset({1}))


def _tensors(**values: Any) -> dict[str, Any]:
    arrays = {}
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        arrays[name] = np.array([i.encode() if isinstance(i, str) else i for i in items], dtype=_NUMPY[TYPES[name]])
    return arrays


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), KINDS["byte_level"]()))


def _prepare(tokenizer: Tokenizer, settings: Settings | None = None, **values: Any) -> Request:
    preparer = Preparer(settings=settings or Settings(), facts=_FACTS, tokenizer=tokenizer)
    return preparer.prepare(read_inputs(_tensors(**values)))


def test_the_configured_inputs_are_the_ones_that_are_read() -> None:
    config = read_config()
    assert {i.name: i.data_type for i in config.input} == {
        name: {"BYTES": 13, "INT32": 8, "BOOL": 1, "FP32": 11, "UINT64": 5}[kind] for name, kind in TYPES.items()
    }
    assert tuple(i.name for i in config.input) == INPUT_NAMES
    assert all(i.optional for i in config.input)


def test_the_configured_parameters_are_the_settings_with_their_defaults() -> None:
    parameters = {key: value.string_value for key, value in read_config().parameters.items()}
    assert set(parameters) == set(Settings.__dataclass_fields__)
    assert Settings.from_parameters(parameters) == Settings()


@pytest.mark.parametrize(
    ("name", "value"), [("threads", "-1"), ("engines", "0"), ("max_batch_size", "four"), ("max_tokens_default", "1.5")]
)
def test_a_wrong_parameter_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"parameter {name} is '{value}'"):
        Settings.from_parameters({name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of text_input and messages is needed: neither is given"),
        ({"text_input": "a", "messages": '[{"role":"user","content":"a"}]'}, "both are given"),
        ({"text_input": ""}, "text_input: is empty"),
        ({"text_input": ["a", "b"]}, "text_input: must be one value, not 2"),
        ({"text_input": b"\xff"}, "text_input: is not UTF-8"),
        ({"max_tokens": 0}, "max_tokens: is 0; it must be at least 1"),
        ({"max_tokens": -5}, "max_tokens: is -5"),
        ({"min_tokens": -1}, "min_tokens: is -1"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens: 9 is above max_tokens 8"),
        ({"temperature": -0.5}, "temperature: is -0.5; it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature: is nan"),
        ({"temperature": float("inf")}, "temperature: is inf"),
        ({"top_k": -1}, "top_k: is -1"),
        ({"top_p": 0.0}, "top_p: is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p: is 1.5"),
        ({"top_p": float("nan")}, "top_p: is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: is 0; it must be above 0"),
        ({"stop_words": [f"w{i}" for i in range(65)]}, "stop_words: has 65 words; at most 64"),
        ({"bad_words": ["x" * 1025]}, "bad_words: has a word of 1025 characters"),
        ({"stop_words": [b"\xff"]}, "stop_words: is not UTF-8"),
        ({"messages": "{"}, "messages: is not JSON"),
        ({"messages": "[]"}, "messages: must be a JSON list with at least one message"),
        ({"messages": '["hi"]'}, r"messages\[0\]: must be an object"),
        ({"messages": '[{"role": "user"}]'}, r"messages\[0\].content: must be a string"),
        ({"messages": '[{"role": "user", "content": "a"}]'}, "this model has no chat template; send text_input"),
    ],
)
def test_a_wrong_input_is_refused_by_name(tokenizer: Tokenizer, values: dict[str, Any], message: str) -> None:
    prompt: dict[str, Any] = {} if not values or values.keys() & {"text_input", "messages"} else {"text_input": "a"}
    with pytest.raises(RequestError, match=message):
        _prepare(tokenizer, **prompt, **values)


def test_a_prompt_above_the_limit_is_refused_with_the_numbers(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="the prompt has 80 tokens, and the limit for prompt and answer is 64"):
        _prepare(tokenizer, text_input="z" * 80)
    with pytest.raises(RequestError, match=r"max_tokens: 30 is too much: the prompt has 40 tokens .* is 64, which leaves 24"):
        _prepare(tokenizer, text_input="z" * 40, max_tokens=30)
    with pytest.raises(RequestError, match="the limit for prompt and answer is 20"):
        _prepare(tokenizer, Settings(max_sequence_length=20), text_input="z" * 20)


def test_tokens_that_the_engine_does_not_have_are_refused(tokenizer: Tokenizer) -> None:
    facts = EngineFacts(context_length=64, vocab_size=10, pad_token_id=0, eos_token_ids=frozenset())
    with pytest.raises(RequestError, match="the tokenizer and the engine do not belong together"):
        Preparer(settings=Settings(), facts=facts, tokenizer=tokenizer).prepare(read_inputs(_tensors(text_input="zz")))


@pytest.mark.parametrize(("prompt", "default", "expected"), [("z", 10, 10), ("z" * 60, 10, 4)])
def test_max_tokens_by_default_is_what_fits(tokenizer: Tokenizer, prompt: str, default: int, expected: int) -> None:
    assert _prepare(tokenizer, Settings(max_tokens_default=default), text_input=prompt).max_tokens == expected


@pytest.mark.parametrize(
    ("values", "sampling"),
    [
        ({}, None),
        ({"seed": 7}, None),
        ({"temperature": 0.0, "top_p": 0.5}, None),
        ({"temperature": 0.8, "top_k": 1}, None),
        ({"temperature": 0.5}, Sampling(0.5, 0, 1.0, None)),
        ({"top_p": 0.5}, Sampling(1.0, 0, 0.5, None)),
        ({"top_k": 5, "seed": 2**64 - 1}, Sampling(1.0, 5, 1.0, 2**64 - 1)),
    ],
)
def test_greedy_or_sampling(tokenizer: Tokenizer, values: dict[str, Any], sampling: Sampling | None) -> None:
    assert _prepare(tokenizer, text_input="a", **values).sampling == sampling


def test_empty_words_count_as_none(tokenizer: Tokenizer) -> None:
    request = _prepare(tokenizer, text_input="a", stop_words=["", "x", "x"], bad_words=[""])
    assert request.stop_words == ("x",)
    assert request.bad_words is None


def test_truncation_and_padding_saved_in_tokenizer_json_are_not_applied(tmp_path: Path) -> None:
    spec = KINDS["byte_level"]()
    spec.enable_truncation(4)
    spec.enable_padding(length=9)
    tokenizer = Tokenizer(write_tokenizer(tmp_path, spec))
    assert len(tokenizer.encode("zzzzzzzz")) == 8


@pytest.mark.parametrize(
    ("generation", "config", "expected"), [([5, 6], 7, {5, 6}), (None, 7, {7}), (None, None, {1}), (0, 7, {0})]
)
def test_the_first_file_that_names_end_tokens_decides(tmp_path: Path, generation: Any, config: Any, expected: set[int]) -> None:
    import json

    (tmp_path / "genai_config.json").write_text('{"model": {"context_length": 8, "vocab_size": 9, "eos_token_id": 1}}')
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    assert EngineFacts.read(tmp_path, tmp_path).eos_token_ids == expected
