"""Preprocessing without Triton around it: what a client sends, as the engine takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_errors import RequestError
from llm_generation import Generation, SettingsError
from llm_tokenizer import Tokenizer
from trt_requests import Preparer, Settings

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(CHECKPOINT)


def preparer(tokenizer: Tokenizer, generation: Generation | None = None, **settings: Any) -> Preparer:
    generation = Generation.read(CHECKPOINT) if generation is None else generation
    return Preparer(Settings(CHECKPOINT, **settings), tokenizer, generation)


def strings(*rows: list[str]) -> np.ndarray:
    return np.array([[value.encode() for value in row] for row in rows], dtype=np.object_)


def test_prompts_of_a_batch_are_filled_up_and_their_lengths_said(tokenizer: Tokenizer) -> None:
    out = preparer(tokenizer).prepare({"QUERY": strings(["Every object has"], ["Names"])}, request_id="")
    expected = [tokenizer.encode("Every object has"), tokenizer.encode("Names")]
    assert out["REQUEST_INPUT_LEN"].tolist() == [[len(row)] for row in expected]
    for row, tokens in zip(out["INPUT_ID"].tolist(), expected, strict=True):
        assert row == tokens + [1] * (len(row) - len(tokens))
    assert out["REQUEST_OUTPUT_LEN"].tolist() == [[128], [128]]


def test_special_tokens_can_be_left_out(tokenizer: Tokenizer) -> None:
    out = preparer(tokenizer, add_special_tokens=False).prepare({"QUERY": strings(["Names"])}, request_id="")
    assert out["INPUT_ID"].tolist() == [tokenizer.encode("Names", special_tokens=False)]


def test_chat_messages_become_the_templates_tokens(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "What is the while statement?"}]
    out = preparer(tokenizer).prepare({"MESSAGES": strings([json.dumps(messages)])}, request_id="")
    assert out["INPUT_ID"].tolist() == [tokenizer.encode_chat(messages)]


def test_the_first_end_token_ends_answers_and_the_others_are_stop_words(tokenizer: Tokenizer) -> None:
    made = preparer(tokenizer, Generation(end_tokens=(7, 8, 9)))
    out = made.prepare({"QUERY": strings(["a"])}, request_id="")
    assert out["OUT_END_ID"].tolist() == [[7]]
    assert out["OUT_PAD_ID"].tolist() == [[7]]
    assert out["STOP_WORDS_IDS"].tolist() == [[[8, 9], [1, 2]]]


def test_a_clients_end_and_pad_tokens_count_more(tokenizer: Tokenizer) -> None:
    given = {"QUERY": strings(["a"]), "END_ID": np.array([[5]], np.int32), "PAD_ID": np.array([[6]], np.int32)}
    out = preparer(tokenizer).prepare(given, request_id="")
    assert (out["OUT_END_ID"].tolist(), out["OUT_PAD_ID"].tolist()) == ([[5]], [[6]])


def test_the_bias_has_the_engines_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_config": {"vocab_size": 2048}}))
    given = {
        "QUERY": strings(["a"]),
        "EMBEDDING_BIAS_WORDS": strings(["object"]),
        "EMBEDDING_BIAS_WEIGHTS": np.array([[1.5]], np.float32),
    }
    out = preparer(tokenizer, engine=tmp_path).prepare(given, request_id="")["EMBEDDING_BIAS"]
    assert out.shape == (1, 2048)
    assert set(np.unique(out)) == {0.0, 1.5}


@pytest.mark.parametrize(
    ("stream", "request_id", "prompts", "streams"),
    [(True, "x", 1, True), (True, "", 1, False), (True, "x", 2, False), (False, "x", 1, False)],
)
def test_only_one_prompt_with_an_id_is_streamed(
    tokenizer: Tokenizer, stream: bool, request_id: str, prompts: int, streams: bool
) -> None:
    given = {"QUERY": strings(*[["a"]] * prompts), "STREAM": np.full((prompts, 1), stream)}
    out = preparer(tokenizer).prepare(given, request_id=request_id)
    assert out["OUT_STREAM"].tolist() == [[streams]] * prompts


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "exactly one of text_input and messages is needed: neither"),
        ({"QUERY": strings(["a"]), "MESSAGES": strings(["[]"])}, "both are given"),
        ({"MESSAGES": strings(["{"])}, "messages: is not JSON"),
        ({"QUERY": np.array([[b"\xff"]], dtype=np.object_)}, "text_input: is not UTF-8"),
        ({"QUERY": strings(["a"]), "REQUEST_OUTPUT_LEN": np.array([[0]], np.int32)}, "max_tokens: is 0; it must be at least 1"),
        ({"QUERY": strings(["a"], ["b"]), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)}, "max_tokens: has 1 rows for 2"),
        ({"QUERY": strings(["a"], ["b"]), "STOP_WORDS_DICT": strings(["x"])}, "stop_words: has 1 rows for 2 prompts"),
        ({"QUERY": strings(["a"]), "EMBEDDING_BIAS_WORDS": strings(["x"])}, "each word needs one weight"),
    ],
)
def test_what_cannot_be_answered_is_refused_naming_the_clients_input(
    tokenizer: Tokenizer, inputs: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        preparer(tokenizer).prepare(inputs, request_id="")
    assert said in caught.value.message


def test_a_release_without_streaming_refuses_it(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="made without streaming"):
        preparer(tokenizer, streaming=False).prepare({"QUERY": strings(["a"]), "STREAM": np.array([[True]])}, request_id="x")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "tokenizer_dir is not set"),
        ({"tokenizer_dir": "/t", "max_tokens_default": "x"}, "max_tokens_default is 'x'"),
        ({"tokenizer_dir": "/t", "add_special_tokens": "yes"}, "add_special_tokens is 'yes'"),
    ],
)
def test_wrong_parameters_are_a_load_error(parameters: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.from_parameters(parameters)
