"""The text of one request's answers: every response of the engine adds to it, by row of the batch, sequence and beam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from llm_stops import StopMatcher
from trt_pieces import Pieces

Array = npt.NDArray[Any]
Key = tuple[int, int, int]


class Answer:
    """What the engine has said so far, cut before the first stop word."""

    def __init__(self, pieces: Pieces, stop_words: Sequence[Sequence[str]], *, stream: bool) -> None:
        """
        Args:
            pieces: of this answer alone.
            stop_words: each row's.
            stream: whether more responses follow the first of a sequence.
        """
        self._pieces = pieces
        self._stop_words = stop_words
        self._stream = stream
        self._matchers: dict[Key, StopMatcher] = {}
        self._ended: set[Key] = set()

    @property
    def ended(self) -> bool:
        """Whether every sequence that has begun has met a stop word."""
        return bool(self._matchers) and len(self._ended) == len(self._matchers)

    def add(self, response: Mapping[str, Array]) -> list[str]:
        """The text that each beam of this response adds."""
        row, sequence = _index(response, "batch_index"), _index(response, "sequence_index")
        texts = []
        for beam, (tokens, length) in enumerate(zip(response["output_ids"][0], response["sequence_length"][0], strict=True)):
            key = (row, sequence, beam)
            if key not in self._matchers:
                self._matchers[key] = StopMatcher(self._stop_words[row])
            texts.append(self._text(key, tokens[:length].tolist()))
        return texts

    def rest(self) -> dict[tuple[int, int], list[str]]:
        """Text that was held back because it might have become a stop word: beams by row and sequence; those with any."""
        found: dict[tuple[int, int], list[str]] = {}
        for key, matcher in self._matchers.items():
            found.setdefault(key[:2], []).append("" if key in self._ended else matcher.flush())
        return {key: texts for key, texts in found.items() if any(texts)}

    def _text(self, key: Key, tokens: list[int]) -> str:
        if key in self._ended:
            return ""
        matcher = self._matchers[key]
        text, stopped = matcher.push(self._pieces.text(tokens, key if self._stream else None))
        if stopped:
            self._ended.add(key)
        elif not self._stream:
            text += matcher.flush()
        return text


def _index(response: Mapping[str, Array], name: str) -> int:
    return int(response[name].reshape(-1)[0]) if name in response else 0
