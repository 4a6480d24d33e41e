"""CRCs that an object store keeps of its objects: too weak to tell files apart, good at finding what was damaged on the way.

    crc32:8b5f1c2a                 of the whole object
    crc32:8b5f1c2a-6/8388608       of the CRCs of its 6 parts, all of 8,388,608 bytes but the last: what S3 keeps of an upload in
                                   parts, if the client asked for nothing else

CRC-32 is in Python's own library. CRC-32C and CRC-64/NVME, which the AWS command line sends, come from awscrt where that is
installed. No extra brings it: boto3 uses it, too, and publishing to S3 then takes half as much processor time and memory again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import cache

Crc = Callable[[memoryview, int], int]

WIDTH = {"crc32": 4, "crc32c": 4, "crc64nvme": 8}
"""Bytes of each kind."""

_TEXT = re.compile(r"(crc32|crc32c|crc64nvme):([0-9a-f]+)(?:-(\d+)/([1-9]\d*))?")


@cache
def crc_of_kind(kind: str) -> Crc | None:
    """The function that continues a CRC over more bytes; None where nothing here computes it."""
    if kind == "crc32":
        return zlib.crc32
    try:
        from awscrt import checksums
    except ImportError:
        return None
    found: Crc | None = getattr(checksums, kind, None)
    return found


class Checksum:
    """A CRC that grows with the bytes that arrive, and what it must be in the end.

    Args:
        text: as above.

    Raises:
        ValueError: if it is none of these, or of a kind that cannot be computed here.
    """

    def __init__(self, text: str) -> None:
        found = _TEXT.fullmatch(text)
        crc = crc_of_kind(found[1]) if found is not None else None
        if found is None or crc is None or len(found[2]) != 2 * WIDTH[found[1]]:
            raise ValueError(f"{text!r} is no checksum that can be computed here")
        self.kind, self.wanted = found[1], found[2]
        self._crc = crc
        self._part_bytes = int(found[4]) if found[4] else None
        self._at = self._value = 0
        self._parts: list[bytes] = []

    def update(self, block: bytes | memoryview) -> None:
        view = memoryview(block)
        while view:
            count = len(view) if self._part_bytes is None else min(len(view), self._part_bytes - self._at)
            self._value = self._crc(view[:count], self._value)
            self._at += count
            view = view[count:]
            if self._at == self._part_bytes:
                self._end_part()

    @property
    def value(self) -> str:
        """Hex, of what has come so far."""
        if self._part_bytes is None:
            return self._hex(self._value)
        parts = [*self._parts, self._bytes(self._value)] if self._at else self._parts
        return self._hex(self._crc(memoryview(b"".join(parts)), 0))

    def matches(self) -> bool:
        return self.value == self.wanted

    def _end_part(self) -> None:
        self._parts.append(self._bytes(self._value))
        self._at = self._value = 0

    def _bytes(self, value: int) -> bytes:
        return value.to_bytes(WIDTH[self.kind], "big")

    def _hex(self, value: int) -> str:
        return self._bytes(value).hex()
