"""Words that must not occur, whatever tokens they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_bad_words import BadWords, Vocabulary

_TABLE = [b"a", b"b", b"ab", b"ba", b"aab", b" ", b" a", b"\xe4", b"\xb8", b"\xad", b""]
_VOCABULARY = Vocabulary(_TABLE)


@given(
    words=st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), min_size=1, max_size=3),
    tokens=st.lists(st.integers(0, len(_TABLE) - 1), max_size=12),
)
def test_exactly_the_tokens_that_complete_a_word_are_banned(words: list[str], tokens: list[int]) -> None:
    bad, text = BadWords(words, _TABLE, _VOCABULARY), b""
    for token in tokens:
        completing = {i for i, more in enumerate(_TABLE) if any(w.encode() in text + more for w in words)}
        assert set(bad.banned().tolist()) == completing
        if token in completing:
            continue
        text += _TABLE[token]
        bad.push(token)


def test_a_word_in_single_bytes_is_banned_at_its_last_byte() -> None:
    bad = BadWords(["中"], _TABLE, _VOCABULARY)
    banned = []
    for token in (7, 8):
        banned.append(bad.banned().tolist())
        bad.push(token)
    assert banned == [[], []]
    assert bad.banned().tolist() == [9]


@pytest.mark.parametrize("token", [10, 99])
def test_tokens_without_text_do_not_hide_a_word(token: int) -> None:
    bad = BadWords(["ab"], _TABLE, _VOCABULARY)
    bad.push(0)
    bad.push(token)
    assert 1 in bad.banned().tolist()
