"""Stop words, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_stops import StopMatcher

_LETTERS = st.text(alphabet="ab", max_size=12)
_WORDS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def _run(words: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    matcher, out = StopMatcher(words), ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out += text
        if stopped:
            return out, True
    return out + matcher.flush(), False


def _plainly(words: Sequence[str], text: str) -> tuple[str, bool]:
    """The definition: the first end of a stop word in the text, and there the longest word."""
    for end in range(len(text) + 1):
        starts = [end - len(word) for word in words if text[:end].endswith(word)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(words=_WORDS, pieces=st.lists(_LETTERS, max_size=8))
def test_the_result_does_not_depend_on_how_the_text_was_cut(words: list[str], pieces: list[str]) -> None:
    assert _run(words, pieces) == _plainly(words, "".join(pieces))


@given(words=_WORDS, pieces=st.lists(_LETTERS, max_size=8))
def test_no_piece_holds_text_that_later_turns_out_to_belong_to_a_stop_word(words: list[str], pieces: list[str]) -> None:
    matcher, out = StopMatcher(words), ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out += text
        if stopped:
            break
        held = len("".join(pieces)) - len(out)
        assert held >= 0
    assert _plainly(words, "".join(pieces))[0].startswith(out)


@pytest.mark.parametrize(
    ("words", "pieces", "first"),
    [
        (["STOP"], ["go ST", "AND"], "go "),
        (["\n\n"], ["a\n", "b"], "a"),
        ([], ["any"], "any"),
        (["x"], ["abc"], "abc"),
    ],
)
def test_only_what_may_become_a_stop_word_is_held_back(words: list[str], pieces: list[str], first: str) -> None:
    matcher = StopMatcher(words)
    assert matcher.push(pieces[0]) == (first, False)
    assert _run(words, pieces) == ("".join(pieces), False)
