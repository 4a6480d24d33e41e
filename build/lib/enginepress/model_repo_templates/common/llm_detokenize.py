"""Text from tokens that arrive one at a time, such that the pieces put together are what decoding all tokens gives.

Two things make this more than decoding each token:

- A character may be spread over several tokens. Byte-level tokenizers replace what is not valid UTF-8 by U+FFFD, one for
  an unfinished character, so one U+FFFD at the end is held back until the next token decides. Tokenizers with byte
  fallback (`<0xE4>` tokens) decode a run of such tokens as a whole - if one byte of the run is invalid, every byte of it
  becomes U+FFFD - so a run is held back until it has ended.
- What a token decodes to depends on what stands before it: sentencepiece-like decoders drop the space at the very
  beginning. So the last finished tokens are decoded again as context, and only what they did not give is new. The first
  context is the end of the prompt: an answer is what the prompt's text grows by.

Special tokens have no text, and do not even end a run of byte tokens: they are left out from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 4

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """The tokens of one answer, as text."""

    def __init__(
        self,
        decode: Decode,
        *,
        has_text: Callable[[int], bool],
        byte_tokens: frozenset[int],
        prompt: Sequence[int] = (),
    ) -> None:
        """
        Args:
            decode: decodes a list of tokens.
            has_text: false for special tokens, and for numbers that are no token.
            byte_tokens: the tokens that stand for one byte each, if the decoder falls back to bytes.
            prompt: the tokens that the answer follows.
        """
        self._decode = decode
        self._has_text = has_text
        self._byte_tokens = byte_tokens
        self._window: list[int] = []  # context, then the tokens not wholly given out
        self._fresh = 0  # where in the window the context ends
        self._given = 0  # characters of the window's text that were given out
        self._begin_after(prompt)

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is certain now, maybe none."""
        if not self._has_text(token):
            return ""
        self._window.append(token)
        if token in self._byte_tokens:
            return ""
        text = self._decode(self._window)
        whole = not text.endswith(_REPLACEMENT)
        piece = self._give(text if whole else text[:-1])
        if whole:
            self._move_context()
        return piece

    def flush(self) -> str:
        """The rest, once no token follows: an unfinished character becomes U+FFFD."""
        return self._give(self._decode(self._window))

    def _begin_after(self, prompt: Sequence[int]) -> None:
        """Takes the prompt's end as context: enough tokens to have text, and no part of a run of bytes."""
        context: list[int] = []
        for token in reversed(prompt):
            if not self._has_text(token):
                continue
            context.insert(0, token)
            if len(context) >= _CONTEXT_TOKENS and token not in self._byte_tokens and self._decode(context).strip():
                break
        self._window = context
        self._fresh = len(context)
        self._given = len(self._decode(context)) if context else 0

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given += len(piece)
        return piece

    def _move_context(self) -> None:
        """Drops the old context where the newer tokens can be one: they must have text, or the leading space that
        the decoder drops would be the next token's."""
        context = self._decode(self._window[self._fresh :])
        if context:
            self._window = self._window[self._fresh :]
            self._given = len(context)
            self._fresh = len(self._window)
