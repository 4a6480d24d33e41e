"""Prompts to tokens and tokens to text, by the checkpoint's own tokenizer.json.

The inference library's tokenizer is not used: it does not add the special tokens that tokenizer.json's post-processor
adds (a missing `<s>` changes every answer).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_chat import ChatTemplate, Message
from llm_detokenize import Detokenizer
from llm_errors import RequestError
from llm_generation import SettingsError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """The tokenizer folder of a model. Its methods may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise SettingsError(f"{file}: is missing; the model needs it to turn prompts into tokens")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        # tokenizer.json may carry its training settings: cutting or padding a prompt without a word is never right.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        spec = json.loads(file.read_text(encoding="utf-8"))
        self._decoders = _kinds(spec.get("decoder"))
        self._special = {entry["id"] for entry in spec.get("added_tokens", []) if entry.get("special")}
        self._added = {entry["id"]: entry["content"] for entry in spec.get("added_tokens", [])}
        self._chat = ChatTemplate.load(folder)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """A text's tokens; a prompt gets the special tokens that the post-processor adds."""
        return list(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's tokens; the template writes the special tokens, so none are added."""
        if self._chat is None:
            raise RequestError("messages: this model has no chat template; send text_input instead")
        return list(self._tokenizer.encode(self._chat.render(messages), add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these tokens, without special tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """A new detokenizer for the answer that follows this prompt."""
        return Detokenizer(self.decode, has_text=self._has_text, byte_tokens=self._byte_tokens, prompt=prompt)

    def _has_text(self, token: int) -> bool:
        return token not in self._special and self._tokenizer.id_to_token(token) is not None

    @functools.cached_property
    def _byte_tokens(self) -> frozenset[int]:
        if "ByteFallback" not in self._decoders:
            return frozenset()
        return frozenset(i for token, i in self._tokenizer.get_vocab().items() if _BYTE_TOKEN.fullmatch(token))

    def bytes_of(self, *, special_tokens: bool = False) -> Callable[[int], bytes]:
        """What gives the UTF-8 bytes that a token adds to an answer, for tokenizers of every kind.

        Args:
            special_tokens: whether those have text, too.
        """
        special = {number: text.encode() for number, text in self._added.items()} if special_tokens else {}
        try:
            table = self.token_bytes
        except RequestError:  # no kind that cuts characters: what a token decodes to behind another one is its text
            anchor = self.encode("a", special_tokens=False)
            start = len(self.decode(anchor))
            return lambda token: special.get(token) or self.decode([*anchor, token])[start:].encode()
        return lambda token: special.get(token) or (table[token] if 0 <= token < len(table) else b"")

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes that each token adds to an answer, by token; special tokens add none.

        Raises:
            RequestError: the tokenizer is of a kind whose bytes are not known here.
        """
        if "ByteLevel" in self._decoders:
            alphabet = {character: byte for byte, character in _byte_alphabet().items()}

            def to_bytes(token: str) -> bytes:
                return b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)

        elif self._decoders & {"ByteFallback", "Metaspace", "Replace"}:

            def to_bytes(token: str) -> bytes:
                byte = _BYTE_TOKEN.fullmatch(token) if "ByteFallback" in self._decoders else None
                return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()

        else:
            raise RequestError(f"bad_words: not possible with this model's tokenizer (decoder {sorted(self._decoders)})")
        table = [b""] * (max(self._tokenizer.get_vocab().values(), default=-1) + 1)
        for token, number in self._tokenizer.get_vocab().items():
            if number in self._special:
                continue
            # Added tokens are stored as they read; the others in the decoder's spelling.
            table[number] = token.encode() if number in self._added else to_bytes(token)
        return table


def _kinds(decoder: Any) -> frozenset[str]:
    """The types of decoder that tokenizer.json lines up."""
    if not isinstance(decoder, dict):
        return frozenset()
    kinds = {str(decoder.get("type"))}
    for inner in decoder.get("decoders", []):
        kinds |= _kinds(inner)
    return frozenset(kinds)


def _byte_alphabet() -> dict[int, str]:
    """How byte-level tokenizers write a byte: printable ones as they are, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + n) for n, byte in enumerate(rest)}
