"""Text of tokens that come in responses of their own, of which nobody says to which answer they belong.

Behind an ensemble each response of the engine is a request here, with nothing but tokens and the id that the client gave its
request. A character may be spread over the tokens of two responses, so the bytes of an unfinished one are kept under that id
until the rest comes. What holds:

- What comes out is always whole characters. Bytes that never become one are left out.
- Put together, an answer's pieces are its text, if no two requests of the same id run at one time (which Triton asks of ids
  anyway). If they do, a character may be lost; none is ever put together from two halves that do not fit.
- Answers without an id are not streamed (see trt_requests), so that they are whole when they come here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

_KEPT = 65_536
"""Answers whose last character is unfinished. More than can run; those that ended so are forgotten in time."""

Key = tuple[object, ...]


class Pieces:
    """Makes text of tokens."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        """
        Args:
            token_bytes: the UTF-8 bytes that a token adds to an answer.
        """
        self._token_bytes = token_bytes
        self._kept: OrderedDict[Key, bytes] = OrderedDict()

    def text(self, tokens: Sequence[int], key: Key | None) -> str:
        """The whole characters of these tokens, with what was kept of the same answer.

        Args:
            key: names the answer; None for one that is whole.
        """
        data = b"".join(map(self._token_bytes, tokens))
        if key is not None and (kept := self._kept.pop(key, None)) is not None:
            if not data:
                self._kept[key] = kept
                return ""
            # What does not go on here was the end of an earlier answer.
            data = kept + data if _goes_on(kept, data) else data
        data = data[_orphans(data) :]
        cut = len(data) - _unfinished(data)
        if key is not None and cut < len(data):
            self._kept[key] = data[cut:]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return data[:cut].decode("utf-8", errors="replace")


def _goes_on(start: bytes, rest: bytes) -> bool:
    """Whether `rest` begins with what the unfinished character `start` lacks, or with some of it."""
    needed = _length(start[0]) - len(start)
    more = rest[:needed]
    if not all(byte & 0xC0 == 0x80 for byte in more):
        return False
    if len(more) < needed:
        return True
    try:
        (start + more).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _orphans(data: bytes) -> int:
    """How many bytes at the beginning are the end of a character whose beginning is not here."""
    count = 0
    while count < min(len(data), 3) and data[count] & 0xC0 == 0x80:
        count += 1
    return count


def _unfinished(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character that is not finished."""
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            return back if _length(byte) > back else 0
    return 0


def _length(first: int) -> int:
    """The bytes of a character that begins with this one; 1 for what begins none."""
    return 2 if 0xC2 <= first <= 0xDF else 3 if 0xE0 <= first <= 0xEF else 4 if 0xF0 <= first <= 0xF4 else 1
