"""Server-sent events, as `/generate_stream` writes them: lines `data: …`, an empty line after each event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def sse_data(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event. Lines may end in CR LF; comments and other fields are skipped; an event cut off is dropped."""
    parts: list[bytes] = []
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                parts.append(value.removeprefix(b" "))
        elif parts:
            yield b"\n".join(parts)
            parts = []
