"""Text of tokens that come in responses of their own: never half a character, and nothing of another answer's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trt_pieces import Pieces


def pieces() -> Pieces:
    """Tokens are bytes here, the hardest case."""
    return Pieces(lambda token: bytes([token]))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text=TEXT, cuts=st.lists(st.integers(0, 80), max_size=10))
def test_pieces_put_together_are_the_text_wherever_it_was_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    maker = pieces()
    ends = sorted({min(c, len(data)) for c in cuts} | {len(data)})
    given_out, start = [], 0
    for end in ends:
        piece = maker.text(list(data[start:end]), ("a",))
        assert "\ufffd" not in piece or "\ufffd" in text
        given_out.append(piece)
        start = end
    assert "".join(given_out) == text


@given(first=TEXT, second=TEXT, order=st.lists(st.booleans(), max_size=160))
def test_answers_that_come_mixed_stay_apart(first: str, second: str, order: list[bool]) -> None:
    maker = pieces()
    left, right = list(first.encode()), list(second.encode())
    said = ["", ""]
    for turn in [*order, *[True] * len(left), *[False] * len(right)]:
        queue, index = (left, 0) if turn else (right, 1)
        if queue:
            said[index] += maker.text([queue.pop(0)], ("id", index))
    assert said == [first, second]


def test_what_an_earlier_answer_of_the_same_id_left_is_forgotten() -> None:
    maker = pieces()
    assert maker.text([0x61, 0xE2, 0x82], ("id",)) == "a"
    assert maker.text(list("é".encode()), ("id",)) == "é"
    assert maker.text(list(b"b"), ("id",)) == "b"


def test_halves_that_do_not_fit_are_left_out_and_never_joined() -> None:
    maker = pieces()
    assert maker.text([0xF0, 0x9F], ("id",)) == ""
    assert maker.text([0x41], ("id",)) == "A"
    assert maker.text([0xAC, 0x42], ("id",)) == "B"


def test_an_answer_without_an_id_ends_before_an_unfinished_character() -> None:
    maker = pieces()
    assert maker.text([*"naïve".encode(), 0xE2, 0x82], None) == "naïve"
    assert maker.text([0xAC], None) == ""


@given(st.lists(st.lists(st.integers(0, 255), max_size=6), max_size=12))
def test_any_bytes_at_all_give_text_that_can_be_encoded(chunks: list[list[int]]) -> None:
    maker = pieces()
    for chunk in chunks:
        maker.text(chunk, ("id",)).encode()


def test_bytes_inside_a_response_that_are_no_character_are_shown_as_such() -> None:
    assert pieces().text([0x41, 0xFF, 0x42], None) == "A\ufffdB"
