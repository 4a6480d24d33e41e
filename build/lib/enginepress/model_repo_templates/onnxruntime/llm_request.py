"""What a client asks for: every input is checked here, and either honoured or refused with an error that names it.

`read_inputs` turns Triton's tensors into a frozen `Inputs`; `Preparer` adds what only the loaded model knows (tokens,
limits) and gives the frozen `Request` that the rest works with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
from llm_bad_words import BadWords, Vocabulary
from llm_chat import Message, parse_messages
from llm_errors import RequestError
from llm_settings import EngineFacts, Settings, sequence_limit
from llm_tokenizer import Tokenizer

# Below this a division by the temperature overflows; the answer is the greedy one long before.
_LEAST_TEMPERATURE = 1e-3
_MOST_WORDS = 64
_MOST_WORD_LENGTH = 1024

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """One request as the client sent it, each value checked on its own. The fields are the model's inputs."""

    text_input: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stream: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    return_log_probs: bool = False


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen among the likely ones; None in its place means: always the likeliest."""

    temperature: float
    top_k: int
    """0: no limit."""
    top_p: float
    seed: int | None


@dataclass(frozen=True)
class Request:
    """One request as it is answered."""

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    stream: bool = False
    sampling: Sampling | None = None
    repetition_penalty: float = 1.0
    stop_words: tuple[str, ...] = ()
    log_probs: bool = False
    bad_words: Callable[[], BadWords] | None = None

    @property
    def total_tokens(self) -> int:
        """The most tokens that prompt and answer can have together."""
        return len(self.prompt) + self.max_tokens


def read_inputs(tensors: Mapping[str, Array]) -> Inputs:
    """Reads the inputs that the client sent, by name.

    Raises:
        RequestError: naming the input.
    """
    values: dict[str, Any] = {}
    for name, array in tensors.items():
        values[name] = _READERS[name](name, array)
    inputs = Inputs(**values)
    if (inputs.text_input is None) == (inputs.messages is None):
        found = "both are given" if inputs.text_input is not None else "neither is given"
        raise RequestError(f"exactly one of text_input and messages is needed: {found}")
    if inputs.max_tokens is not None and inputs.min_tokens > inputs.max_tokens:
        raise RequestError(f"min_tokens: {inputs.min_tokens} is above max_tokens {inputs.max_tokens}")
    return inputs


class Preparer:
    """Makes requests for one loaded model."""

    def __init__(self, *, settings: Settings, facts: EngineFacts, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._facts = facts
        self._tokenizer = tokenizer
        self._limit = sequence_limit(settings, facts)
        self._vocabulary: Vocabulary | None = None

    def prepare(self, inputs: Inputs) -> Request:
        """The request for these inputs.

        Raises:
            RequestError: the model cannot answer this.
        """
        if inputs.messages is not None:
            prompt = self._tokenizer.encode_chat(inputs.messages)
        else:
            prompt = self._tokenizer.encode(inputs.text_input or "")
        if not prompt:
            raise RequestError("the prompt is empty: it has no tokens")
        if max(prompt) >= self._facts.vocab_size:
            raise RequestError(
                f"the prompt has token {max(prompt)}, but the model's vocabulary ends at {self._facts.vocab_size - 1}: "
                "the tokenizer and the engine do not belong together"
            )
        return Request(
            prompt=tuple(prompt),
            max_tokens=self._max_tokens(len(prompt), inputs),
            min_tokens=inputs.min_tokens,
            stream=inputs.stream,
            sampling=_sampling(inputs),
            repetition_penalty=inputs.repetition_penalty,
            stop_words=inputs.stop_words,
            log_probs=inputs.return_log_probs,
            bad_words=self._bad_words(inputs.bad_words),
        )

    def _max_tokens(self, prompt: int, inputs: Inputs) -> int:
        room = self._limit - prompt
        if room < 1:
            raise RequestError(
                f"the prompt has {prompt} tokens, and the limit for prompt and answer is {self._limit}: shorten it"
            )
        asked = inputs.max_tokens
        if asked is not None and asked > room:
            raise RequestError(
                f"max_tokens: {asked} is too much: the prompt has {prompt} tokens and the limit for prompt and answer is "
                f"{self._limit}, which leaves {room}"
            )
        chosen = asked or min(self._settings.max_tokens_default, room)
        if inputs.min_tokens > chosen:
            raise RequestError(f"min_tokens: {inputs.min_tokens} is above the {chosen} tokens that this answer can have")
        return chosen

    def _bad_words(self, words: tuple[str, ...]) -> Callable[[], BadWords] | None:
        if not words:
            return None
        table = self._tokenizer.token_bytes
        vocabulary = self._vocabulary = self._vocabulary or Vocabulary(table)
        return lambda: BadWords(words, table, vocabulary)


def _sampling(inputs: Inputs) -> Sampling | None:
    """None (greedy) without any sampling value, at temperature 0, or with top_k 1."""
    if inputs.temperature is None and inputs.top_k is None and inputs.top_p is None:
        return None
    temperature = 1.0 if inputs.temperature is None else inputs.temperature
    if temperature < _LEAST_TEMPERATURE or inputs.top_k == 1:
        return None
    return Sampling(temperature=temperature, top_k=inputs.top_k or 0, top_p=inputs.top_p or 1.0, seed=inputs.seed)


# ----------------------------------------------------------------------------------------------------------------------
# One value each
# ----------------------------------------------------------------------------------------------------------------------


def _one(name: str, array: Array) -> Any:
    if array.size != 1:
        raise RequestError(f"{name}: must be one value, not {array.size}")
    return array.reshape(-1)[0]


def _text(name: str, value: Any) -> str:
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8: {error}") from None
    return text


def _prompt(name: str, array: Array) -> str:
    text = _text(name, _one(name, array))
    if not text:
        raise RequestError(f"{name}: is empty")
    return text


def _messages(name: str, array: Array) -> tuple[Message, ...]:
    return tuple(parse_messages(_text(name, _one(name, array))))


def _words(name: str, array: Array) -> tuple[str, ...]:
    """Words; empty ones count as not given, since clients send [""] for "none"."""
    words = tuple(dict.fromkeys(word for value in array.reshape(-1) if (word := _text(name, value))))
    if len(words) > _MOST_WORDS:
        raise RequestError(f"{name}: has {len(words)} words; at most {_MOST_WORDS} are possible")
    longest = max(map(len, words), default=0)
    if longest > _MOST_WORD_LENGTH:
        raise RequestError(f"{name}: has a word of {longest} characters; at most {_MOST_WORD_LENGTH} are possible")
    return words


def _whole(least: int) -> Callable[[str, Array], int]:
    def read(name: str, array: Array) -> int:
        value = int(_one(name, array))
        if value < least:
            raise RequestError(f"{name}: is {value}; it must be at least {least}")
        return value

    return read


def _number(condition: str, holds: Callable[[float], bool]) -> Callable[[str, Array], float]:
    def read(name: str, array: Array) -> float:
        value = float(_one(name, array))
        if not math.isfinite(value) or not holds(value):
            raise RequestError(f"{name}: is {value:g}; it must be {condition}")
        return value

    return read


def _flag(name: str, array: Array) -> bool:
    return bool(_one(name, array))


_READERS: Mapping[str, Callable[[str, Array], Any]] = {
    "text_input": _prompt,
    "messages": _messages,
    "max_tokens": _whole(1),
    "min_tokens": _whole(0),
    "stream": _flag,
    "temperature": _number("0 or more", lambda value: value >= 0),
    "top_k": _whole(0),
    "top_p": _number("above 0 and at most 1", lambda value: 0 < value <= 1),
    "seed": _whole(0),
    "repetition_penalty": _number("above 0", lambda value: value > 0),
    "stop_words": _words,
    "bad_words": _words,
    "return_log_probs": _flag,
}

INPUT_NAMES: Sequence[str] = tuple(_READERS)
