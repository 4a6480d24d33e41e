"""Reads and checks the header of a safetensors file without loading a tensor.

    8 bytes     N, little endian
    N bytes     JSON object, first byte `{`, right-padded with spaces:
                {"__metadata__": {str: str}, "<tensor>": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}
    the rest    the tensors' bytes, one after the other, without holes

A header comes from strangers, so this reader is at least as strict as the format and the safetensors library: what it accepts
the library accepts as well. It also refuses what the library lets pass and other readers may read differently, such as a
key that occurs twice. Since the tensors must cover the file exactly, a truncated file never passes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from enginepress.errors import SourceError

MAX_HEADER_BYTES = 100_000_000
MAX_BITS = 2**63

DTYPE_BITS: Mapping[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
"""Bits of one element, by the names that the format knows."""

_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Tensor:
    """One tensor: `start` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        tensors: by name, in the order of their bytes.
        metadata: `__metadata__`, empty if there is none.
        size: bytes before the first tensor's.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    size: int


class _Malformed(Exception):
    """What is wrong with a header, in words that follow the file's name."""


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        SourceError: naming the file and what is wrong with it.
    """
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            _check_length(len(start), length, size)
            return _parsed(stream.read(length), size)
    except _Malformed as error:
        raise SourceError(
            f"is no intact safetensors file: {error}",
            where=str(path),
            fix="fetch the file again from where it came from; it may be truncated or damaged",
        ) from None
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _check_length(present: int, length: int, file_size: int) -> None:
    if present < 8:
        raise _Malformed(f"it has {file_size} bytes and cannot hold a header")
    if length > MAX_HEADER_BYTES:
        raise _Malformed(
            f"its first 8 bytes announce a header of {length:,} bytes, more than {MAX_HEADER_BYTES:,} are not allowed"
        )
    if 8 + length > file_size:
        raise _Malformed(f"its header should have {length:,} bytes, but the file ends after {file_size:,}")


def _parsed(raw: bytes, file_size: int) -> Header:
    if raw[:1] != b"{":
        raise _Malformed("its header does not begin with '{'")
    try:
        data = json.loads(
            raw.rstrip(b" ").decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_natural,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
        # A lone surrogate is JSON for Python, yet no text: no other reader would find a tensor of that name.
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise _Malformed("its header is not UTF-8") from None
    except ValueError as error:  # also a number of thousands of digits
        raise _Malformed(f"its header is not JSON: {error}") from None
    except RecursionError:
        raise _Malformed("its header is nested too deeply") from None
    if not isinstance(data, dict):
        raise _Malformed("its header is not a JSON object")
    if raw.rstrip(b" ")[-1:] != b"}":
        raise _Malformed("its header is padded with something else than spaces")
    metadata = _metadata(data.pop("__metadata__", {}))
    tensors = {name: _tensor(name, entry) for name, entry in data.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_cover(ordered, file_size - 8 - len(raw))
    return Header(ordered, metadata, 8 + len(raw))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Malformed(f"the key {_short(twice)} occurs twice in its header")
    return found


def _natural(text: str) -> int:
    if text.startswith("-") or len(text) > 20:
        raise _Malformed(f"{_short(text)} in its header is no size")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise _Malformed(f"{_short(text)} in its header is no whole number")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _Malformed("its __metadata__ is not a mapping of text to text")
    return value


def _tensor(name: str, entry: Any) -> Tensor:
    def wrong(problem: str) -> _Malformed:
        return _Malformed(f"tensor {_short(name)} {problem}")

    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise wrong("does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise wrong(f"has the unknown dtype {_short(dtype)}")
    if not _are_naturals(shape):
        raise wrong("has a shape that is no list of sizes")
    if not _are_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("has data_offsets that are no pair of begin and end")
    # Zeros left out: the library's arithmetic must not overflow on the way to a product of zero either.
    if math.prod(s for s in shape if s) * DTYPE_BITS[dtype] >= MAX_BITS:
        raise wrong("is larger than any file")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8:
        raise wrong("does not end on a whole byte")
    if bits // 8 != offsets[1] - offsets[0]:
        raise wrong(f"needs {bits // 8:,} bytes for its shape and dtype, and has {offsets[1] - offsets[0]:,}")
    return Tensor(dtype, tuple(shape), offsets[0], offsets[1])


def _are_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v < MAX_BITS for v in value)


def _check_cover(ordered: Mapping[str, Tensor], available: int) -> None:
    """The tensors lie side by side and fill the file."""
    end = 0
    for name, tensor in ordered.items():
        if tensor.start < end:
            raise _Malformed(f"tensor {_short(name)} overlaps the one before it")
        if tensor.start > end:
            raise _Malformed(f"there is a hole before tensor {_short(name)}")
        end = tensor.end
    if end > available:
        raise _Malformed(f"it is truncated: its tensors need {end:,} bytes, and {available:,} follow the header")
    if end < available:
        raise _Malformed(f"{available - end:,} bytes follow its last tensor")


def _short(value: Any) -> str:
    """A value from a stranger, fit to be printed."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
