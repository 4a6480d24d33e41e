"""A request's inputs, checked, as the tensors that the engine takes. The rows of a batch are prompts of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llm_chat import parse_messages
from llm_errors import RequestError
from llm_generation import Generation, SettingsError
from llm_tokenizer import Tokenizer
from trt_words import embedding_bias, spellings, word_list

Array = npt.NDArray[Any]

INPUTS = (
    "QUERY",
    "MESSAGES",
    "DECODER_QUERY",
    "REQUEST_OUTPUT_LEN",
    "BAD_WORDS_DICT",
    "STOP_WORDS_DICT",
    "END_ID",
    "PAD_ID",
    "PROMPT_TABLE_EXTRA_ID",
    "EMBEDDING_BIAS_WORDS",
    "EMBEDDING_BIAS_WEIGHTS",
    "STREAM",
)

_CLIENT = {
    "QUERY": "text_input",
    "MESSAGES": "messages",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "STREAM": "stream",
}
"""Our inputs by the names that clients know, for messages."""


@dataclass(frozen=True)
class Settings:
    """The parameters of config.pbtxt.

    Attributes:
        streaming: whether the engine's model is decoupled, so that answers can come in pieces.
    """

    tokenizer: Path
    engine: Path | None = None
    add_special_tokens: bool = True
    max_tokens_default: int = 128
    streaming: bool = True

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Settings:
        tokenizer = parameters.get("tokenizer_dir", "")
        if not tokenizer:
            raise SettingsError("config.pbtxt: parameter tokenizer_dir is not set")
        engine = parameters.get("gpt_model_path", "")
        default = parameters.get("max_tokens_default", "128")
        if not default.isdigit() or int(default) < 1:
            raise SettingsError(f"config.pbtxt: parameter max_tokens_default is {default!r}; it must be 1 or more")
        return cls(
            tokenizer=Path(tokenizer),
            engine=Path(engine) if engine else None,
            add_special_tokens=_flag(parameters, "add_special_tokens"),
            max_tokens_default=int(default),
            streaming=_flag(parameters, "streaming"),
        )


class Preparer:
    """Makes the engine's inputs, for one loaded tokenizer."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, generation: Generation) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._generation = generation
        ends = generation.end_tokens
        self._end = ends[0] if ends else -1
        self._more_ends: list[tuple[int, ...]] = [(token,) for token in ends[1:]]
        self._pad = self._end if generation.pad_token is None else generation.pad_token
        self._vocab_size = _vocab_size(settings.engine) or generation.vocab_size or 0

    def prepare(self, inputs: Mapping[str, Array], *, request_id: str) -> dict[str, Array]:
        """The tensors by their names in config.pbtxt.

        Raises:
            RequestError: naming the client's input.
        """
        prompts = self._prompts(inputs)
        batch = len(prompts)
        pad = _column(inputs, "PAD_ID", batch, self._pad)
        max_tokens = _column(inputs, "REQUEST_OUTPUT_LEN", batch, self._settings.max_tokens_default)
        if (max_tokens < 1).any():
            raise RequestError(f"max_tokens: is {int(max_tokens.min())}; it must be at least 1")
        decoder = self._decoder_prompts(inputs, batch)
        tensors: dict[str, Array] = {
            "INPUT_ID": _padded(prompts, pad),
            "REQUEST_INPUT_LEN": _lengths(prompts),
            "DECODER_INPUT_ID": _padded(decoder, pad),
            "REQUEST_DECODER_INPUT_LEN": _lengths(decoder),
            "REQUEST_OUTPUT_LEN": max_tokens,
            "BAD_WORDS_IDS": word_list(self._word_tokens(inputs, "BAD_WORDS_DICT", batch)),
            "STOP_WORDS_IDS": word_list([r + self._more_ends for r in self._word_tokens(inputs, "STOP_WORDS_DICT", batch)]),
            "EMBEDDING_BIAS": embedding_bias(_biases(inputs, batch), self._encode, self._vocab_size),
            "OUT_END_ID": _column(inputs, "END_ID", batch, self._end),
            "OUT_PAD_ID": pad,
            "OUT_STREAM": self._stream(inputs, batch, request_id),
        }
        if "PROMPT_TABLE_EXTRA_ID" in inputs:
            extra = _column(inputs, "PROMPT_TABLE_EXTRA_ID", batch, 0).astype(np.uint64)
            virtual = tensors["INPUT_ID"] >= self._vocab_size
            tensors["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(virtual, extra, np.uint64(0))
        return tensors

    def _encode(self, word: str) -> Sequence[int]:
        return self._tokenizer.encode(word, special_tokens=False)

    def _prompts(self, inputs: Mapping[str, Array]) -> list[list[int]]:
        if ("QUERY" in inputs) == ("MESSAGES" in inputs):
            found = "both are given" if "QUERY" in inputs else "neither is given"
            raise RequestError(f"exactly one of text_input and messages is needed: {found}")
        if "MESSAGES" in inputs:
            prompts = [self._tokenizer.encode_chat(parse_messages(text)) for text in _texts(inputs, "MESSAGES")]
        else:
            special = self._settings.add_special_tokens
            prompts = [self._tokenizer.encode(text, special_tokens=special) for text in _texts(inputs, "QUERY")]
        if not all(prompts):
            raise RequestError("the prompt is empty: it has no tokens")
        return prompts

    def _decoder_prompts(self, inputs: Mapping[str, Array], batch: int) -> list[list[int]]:
        """An encoder-decoder model's answer begins with this; other engines do not look at it."""
        if "DECODER_QUERY" not in inputs:
            start = self._generation.decoder_start
            return [[max(self._pad, 0) if start is None else start]] * batch
        texts = _texts(inputs, "DECODER_QUERY")
        _check_rows("DECODER_QUERY", len(texts), batch)
        return [self._tokenizer.encode(text, special_tokens=False) for text in texts]

    def _word_tokens(self, inputs: Mapping[str, Array], name: str, batch: int) -> list[list[tuple[int, ...]]]:
        """Each row's words as tokens, in all their spellings; empty words count as not given."""
        if name not in inputs:
            return [[] for _ in range(batch)]
        _check_rows(name, inputs[name].shape[0], batch)
        rows = [[_text(name, value) for value in row.reshape(-1)] for row in inputs[name]]
        return [[tokens for word in row if word for tokens in spellings(word, self._encode)] for row in rows]

    def _stream(self, inputs: Mapping[str, Array], batch: int, request_id: str) -> Array:
        """Whether the engine streams.

        The pieces of an answer reach postprocessing one by one, and only the request's id tells whose they are: without one,
        or with several prompts under one id, half a character could meet another answer's half. Those answers come whole.
        """
        wanted = bool(inputs["STREAM"].any()) if "STREAM" in inputs else False
        if wanted and not self._settings.streaming:
            raise RequestError("stream: this release was made without streaming (serving.streaming in its recipe)")
        return np.full((batch, 1), wanted and bool(request_id) and batch == 1, dtype=np.bool_)


def _texts(inputs: Mapping[str, Array], name: str) -> list[str]:
    """One text a row."""
    array = inputs[name]
    if array.size != array.shape[0]:
        raise RequestError(f"{_CLIENT[name]}: has {array.size} values for {array.shape[0]} prompts")
    return [_text(name, value) for value in array.reshape(-1)]


def _text(name: str, value: Any) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"{_CLIENT.get(name, name.lower())}: is not UTF-8: {error}") from None


def _biases(inputs: Mapping[str, Array], batch: int) -> list[list[tuple[str, float]]]:
    words, weights = inputs.get("EMBEDDING_BIAS_WORDS"), inputs.get("EMBEDDING_BIAS_WEIGHTS")
    if words is None and weights is None:
        return [[] for _ in range(batch)]
    if words is None or weights is None or words.shape != weights.shape:
        raise RequestError("embedding_bias_words and embedding_bias_weights: each word needs one weight")
    _check_rows("EMBEDDING_BIAS_WORDS", words.shape[0], batch)
    return [
        [(_text("EMBEDDING_BIAS_WORDS", word), float(weight)) for word, weight in zip(*row, strict=True)]
        for row in zip(words, weights, strict=True)
    ]


def _column(inputs: Mapping[str, Array], name: str, batch: int, default: int) -> Array:
    """One whole number a row."""
    if name not in inputs:
        return np.full((batch, 1), default, dtype=np.int32)
    if inputs[name].size != batch:
        _check_rows(name, inputs[name].size, batch)
    return inputs[name].reshape(batch, 1).astype(np.int32, copy=False)


def _check_rows(name: str, rows: int, batch: int) -> None:
    if rows != batch:
        raise RequestError(f"{_CLIENT.get(name, name.lower())}: has {rows} rows for {batch} prompts")


def _padded(rows: Sequence[Sequence[int]], pad: Array) -> Array:
    out = np.repeat(pad.astype(np.int32), max(map(len, rows)), axis=1)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def _lengths(rows: Sequence[Sequence[int]]) -> Array:
    return np.array([[len(row)] for row in rows], dtype=np.int32)


def _flag(parameters: Mapping[str, str], name: str) -> bool:
    value = parameters.get(name, "true")
    if value not in ("true", "false"):
        raise SettingsError(f"config.pbtxt: parameter {name} is {value!r}; it must be true or false")
    return value == "true"


def _vocab_size(engine: Path | None) -> int | None:
    """As the engine was built, which may be more than the tokenizer has."""
    try:
        config = json.loads((engine / "config.json").read_text(encoding="utf-8")) if engine else {}
        return int(config["pretrained_config"]["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
