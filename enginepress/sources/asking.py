"""What sources share that ask servers for JSON: patience, limits, words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from enginepress.errors import SourceError
from enginepress.sources import Interrupted
from enginepress.sources.transfer import Answer
from enginepress.sources.transfer.pace import Trickle

MAX_JSON_BYTES = 64 * 1024 * 1024
NO_JSON = "did not answer with JSON"
T = TypeVar("T")


def ask_patiently(
    attempt: Callable[[], T],
    *,
    pauses: Sequence[float],
    failed: Callable[[Interrupted], SourceError],
    wait: Callable[[float], object] = time.sleep,
) -> T:
    """What `attempt` returns, tried again after each pause if it raises Interrupted; at last raises what `failed` makes of it.

    Args:
        wait: waits so many seconds; returns something true if there is no use in trying again.
    """
    for pause in [*pauses, None]:
        try:
            return attempt()
        except Interrupted as error:
            if pause is None or wait(max(pause, error.wait or 0)):
                raise failed(error) from None
    raise AssertionError("the last attempt returns or raises")


def read_whole(answer: Answer, *, where: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """The body of an answer.

    Raises:
        Interrupted: if it is shorter than announced, or merely trickles.
        SourceError: if it is longer than `limit`.
    """
    raw, trickle = bytearray(), Trickle(seconds=answer.timeout)
    for block in answer.blocks:
        raw += block
        if trickle.is_stalled(len(block)):
            raise Interrupted("almost nothing arrives")
        if len(raw) > limit:
            raise SourceError(f"answers with more than {limit:,} bytes", where=where)
    announced = answer.header("content-length")
    if announced.isdigit() and len(raw) != int(announced):
        raise Interrupted("the answer ended early")
    return bytes(raw)


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine: only there a secret may travel in the clear."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", host))
