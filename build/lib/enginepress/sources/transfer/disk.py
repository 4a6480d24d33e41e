"""Bytes on their way to a disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

_COPY_BYTES = 4 * 1024 * 1024
_START_ONLY = 2


def write_all(handle: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count


def _find_sync_file_range() -> Any:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()


def begin_writing(handle: int) -> None:
    """Tells the kernel to begin writing what is dirty, and does not wait for it. What cannot be told is done by the sync."""
    if _sync_file_range is not None:
        _sync_file_range(handle, 0, 0, _START_ONLY)


def copy_span(reader: int, writer: int, start: int, stop: int) -> bool:
    """Copies bytes to the same place in another file, inside the file system where it can; False if some are not there."""
    while start < stop:
        count = 0
        with contextlib.suppress(OSError):
            count = os.copy_file_range(reader, writer, stop - start, start, start)
        if not count:
            block = os.pread(reader, min(stop - start, _COPY_BYTES), start)
            count = len(block)
            if not count:
                return False
            write_all(writer, memoryview(block), start)
        start += count
    return True
