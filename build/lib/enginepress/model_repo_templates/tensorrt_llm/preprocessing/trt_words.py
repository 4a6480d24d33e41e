"""Words as TensorRT-LLM takes them: lists of tokens, flattened, with the offsets at which each ends.

    [[tokens of word 1, tokens of word 2, …, 0, 0],
     [end of word 1,    end of word 2,    …, -1, -1]]

A word may be cut into tokens in more than one way: "fox" begins an answer as one token and goes on after a space as another.
So each word is given as it stands alone, as it goes on after other text, and as it follows a space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Encode = Callable[[str], Sequence[int]]
Int32 = npt.NDArray[np.int32]

_BEFORE = "a"
"""Text that a word is put behind to see how it goes on."""


def spellings(word: str, encode: Encode) -> list[tuple[int, ...]]:
    """The ways in which a word is cut into tokens, each once; none if it has no tokens."""
    found = [tuple(encode(word))]
    before = tuple(encode(_BEFORE))
    for text in (word, " " + word):
        whole = tuple(encode(_BEFORE + text))
        if before and whole[: len(before)] == before:
            found.append(whole[len(before) :])
    return [tokens for tokens in dict.fromkeys(found) if tokens]


def word_list(rows: Sequence[Sequence[Sequence[int]]]) -> Int32:
    """The words of each row of a batch, as one tensor [batch, 2, longest]."""
    flat = [[token for word in row for token in word] for row in rows]
    ends = [np.cumsum([len(word) for word in row], dtype=np.int32) for row in rows]
    longest = max((len(tokens) for tokens in flat), default=0)
    out = np.zeros((len(rows), 2, longest), dtype=np.int32)
    out[:, 1, :] = -1
    for row, (tokens, offsets) in enumerate(zip(flat, ends, strict=True)):
        out[row, 0, : len(tokens)] = tokens
        out[row, 1, : len(offsets)] = offsets
    return out


def embedding_bias(rows: Sequence[Iterable[tuple[str, float]]], encode: Encode, vocab_size: int) -> npt.NDArray[np.float32]:
    """What is added to the logits of the words' tokens, [batch, vocab_size]; [batch, 0] if no row has any."""
    listed = [list(row) for row in rows]
    out = np.zeros((len(listed), vocab_size if any(listed) else 0), dtype=np.float32)
    for row, words in enumerate(listed):
        for word, weight in words:
            for token in {token for tokens in spellings(word, encode) for token in tokens}:
                if token < out.shape[1]:
                    out[row, token] += weight
    return out
