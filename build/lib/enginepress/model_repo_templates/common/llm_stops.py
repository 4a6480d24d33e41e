"""Stop words in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Cuts a text before the first stop word, wherever the pieces were cut.

    Text that may be the beginning of a stop word is held back until the next characters decide. The first stop word
    whose end arrives wins, and of those that end together the longest: what comes out never depends on the pieces.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(dict.fromkeys(words))
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece.

        Returns:
            The text that is certain now, and whether a stop word was found (which ends the answer: nothing follows).
        """
        if not self._words:
            return text, False
        text = self._held + text
        found = [(at + len(word), at) for word in self._words if (at := text.find(word)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = max(_overlap(text, word) for word in self._words)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """The held back text, once the answer has ended without it becoming a stop word."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """The length of the longest end of `text` that is a beginning of `word`, shorter than the word."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
