"""Words as TensorRT-LLM takes them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trt_words import embedding_bias, spellings, word_list

VOCABULARY = {"a": 1, "fox": 2, " fox": 3, " ": 4, "f": 5}


def encode(text: str) -> list[int]:
    """The longest known beginning, again and again."""
    tokens = []
    while text:
        piece = max((p for p in VOCABULARY if text.startswith(p)), key=len, default=text[0])
        tokens.append(VOCABULARY.get(piece, 9))
        text = text[len(piece) :]
    return tokens


def read_back(row: np.ndarray) -> list[list[int]]:
    """As the backend reads them: up to the first -1."""
    flat, ends = row
    words, start = [], 0
    for end in ends.tolist():
        if end == -1:
            break
        words.append(flat[start:end].tolist())
        start = end
    return words


def test_the_format_is_flattened_tokens_and_the_end_of_each_word() -> None:
    assert word_list([[[5], [7, 8], [6]]]).tolist() == [[[5, 7, 8, 6], [1, 3, 4, -1]]]


def test_rows_of_a_batch_are_filled_up_to_the_longest() -> None:
    out = word_list([[[5]], [[7, 8], [6]]])
    assert out.tolist() == [[[5, 0, 0], [1, -1, -1]], [[7, 8, 6], [2, 3, -1]]]
    assert out.dtype == np.int32


def test_no_words_are_an_empty_tensor_of_the_right_rank() -> None:
    assert word_list([[], []]).shape == (2, 2, 0)


@given(st.lists(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4), max_size=5), min_size=1, max_size=4))
def test_whatever_is_put_in_is_read_back(rows: list[list[list[int]]]) -> None:
    assert [read_back(row) for row in word_list(rows)] == rows


def test_a_word_is_given_alone_after_text_and_after_a_space() -> None:
    assert spellings("fox", encode) == [(2,), (3,)]
    assert spellings(" fox", encode) == [(3,), (4, 3)]


def test_a_bias_is_on_every_token_of_the_word_and_rows_are_apart() -> None:
    out = embedding_bias([[("fox", 2.5)], []], encode, vocab_size=6)
    assert out.tolist() == [[0, 0, 2.5, 2.5, 0, 0], [0] * 6]
    assert embedding_bias([[], []], encode, vocab_size=6).shape == (2, 0)
