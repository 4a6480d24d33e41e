"""Words that must not occur in an answer.

A ban looks at text, not at one tokenization of the word: a token is forbidden at a step if, put behind the answer so
far, it would complete the word - however the word is cut into tokens, with or without a space before it. Upper and lower
case count. The prompt does not count: only the answer is kept free of the words.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]


class Vocabulary:
    """The bytes of every token, sorted, so that all tokens with one beginning lie side by side."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        order = sorted(range(len(token_bytes)), key=token_bytes.__getitem__)
        self._bytes = [token_bytes[i] for i in order]
        self._tokens = np.array(order, dtype=np.int64)

    def starting_with(self, prefix: bytes) -> Tokens:
        """The tokens whose bytes begin so."""
        first = bisect.bisect_left(self._bytes, prefix)
        end = first
        while end < len(self._bytes) and self._bytes[end].startswith(prefix):
            end += 1
        return self._tokens[first:end]

    def containing(self, word: bytes) -> Tokens:
        """The tokens whose bytes have the word in them."""
        return self._tokens[[i for i, token in enumerate(self._bytes) if word in token]]


class BadWords:
    """The words of one request and the end of its answer so far."""

    def __init__(self, words: Sequence[str], token_bytes: Sequence[bytes], vocabulary: Vocabulary) -> None:
        self._token_bytes = token_bytes
        self._words = [word.encode() for word in words]
        self._always = _union([vocabulary.containing(word) for word in self._words])
        # For each beginning of a word: the tokens that complete it.
        self._completing = [
            (word[:cut], tokens)
            for word in self._words
            for cut in range(1, len(word))
            if len(tokens := vocabulary.starting_with(word[cut:]))
        ]
        self._tail = b""
        self._keep = max(map(len, self._words)) - 1

    def banned(self) -> Tokens:
        """The tokens that would complete a word now."""
        return _union([self._always, *(tokens for start, tokens in self._completing if self._tail.endswith(start))])

    def push(self, token: int) -> None:
        """Takes the token that was chosen."""
        text = self._tail + (self._token_bytes[token] if token < len(self._token_bytes) else b"")
        self._tail = text[max(0, len(text) - self._keep) :]


def _union(parts: Sequence[Tokens]) -> Tokens:
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
