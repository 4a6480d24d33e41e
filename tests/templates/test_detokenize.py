"""Text of tokens that arrive one by one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_tokenizer import Tokenizer

from tests.templates.tokenizers_for_tests import KINDS, TEXT, write_tokenizer


@cache
def _tokenizer(kind: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return Tokenizer(write_tokenizer(Path(folder), KINDS[kind]()))


def _pieces(tokenizer: Tokenizer, tokens: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt or [])
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_pieces_put_together_are_the_decoded_answer(kind: str, data: st.DataObject) -> None:
    tokenizer = _tokenizer(kind)
    tokens = data.draw(st.lists(st.integers(0, 255), max_size=40))
    assert "".join(_pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_answer_is_what_the_prompts_text_grows_by(kind: str, data: st.DataObject) -> None:
    """With sentencepiece-like decoders the answer's tokens alone would lose the space before their first word."""
    tokenizer = _tokenizer(kind)
    prompt = tokenizer.encode(data.draw(st.sampled_from([*TEXT, "the", "a b", "x \U0001f9ff"])))
    answer = tokenizer.encode(data.draw(st.sampled_from(TEXT)))[data.draw(st.integers(0, 3)) :]
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *answer])
    assert whole.startswith(before)
    assert "".join(_pieces(tokenizer, answer, prompt)) == whole[len(before) :]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=30))
def test_a_valid_text_never_shows_a_broken_character_on_its_way(kind: str, text: str) -> None:
    tokenizer = _tokenizer(kind)
    text = text.replace("\ufffd", "").replace("\u2581", "")
    pieces = _pieces(tokenizer, tokenizer.encode(text))
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_an_emoji_of_four_tokens_arrives_in_one_piece(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    tokens = tokenizer.encode("a \U0001f9ff b")
    pieces = [piece for piece in _pieces(tokenizer, tokens) if piece]
    assert sum("\U0001f9ff" in piece for piece in pieces) == 1
    assert "".join(pieces) == "a \U0001f9ff b"


def test_a_run_of_byte_tokens_with_an_invalid_byte_reads_as_the_whole_decodes() -> None:
    tokenizer = _tokenizer("byte_fallback")
    run = [3 + byte for byte in "中".encode()] + [3 + 0xFF]
    after = tokenizer.encode("the")
    assert "".join(_pieces(tokenizer, [*run, *after])) == tokenizer.decode([*run, *after])
    assert "中" not in tokenizer.decode(run)


@pytest.mark.parametrize("kind", KINDS)
def test_words_keep_their_spaces(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    tokens = tokenizer.encode(TEXT[0])
    assert "".join(_pieces(tokenizer, tokens)) == TEXT[0]
    assert len([piece for piece in _pieces(tokenizer, tokens) if piece]) > 5


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(data=st.data())
def test_the_bytes_of_tokens_put_together_are_the_text(kind: str, data: st.DataObject) -> None:
    tokenizer = _tokenizer(kind)
    tokens = data.draw(st.lists(st.integers(0, 290), max_size=20))
    table = tokenizer.token_bytes
    joined = b"".join(table[token] if token < len(table) else b"" for token in tokens)
    try:
        text = joined.decode()
    except UnicodeDecodeError:
        return
    assert text.removeprefix(" ") == tokenizer.decode(tokens).removeprefix(" ")
