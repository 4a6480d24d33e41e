"""Receiving over a connection that breaks: whatever happens on the way, only the published bytes are admitted."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import SourceError
from enginepress.sources import Body, Digest, Interrupted, RemoteFile
from enginepress.sources.transfer import Request, receive


def _file(data: bytes, algorithm: str = "sha256") -> RemoteFile:
    if algorithm == "sha256":
        return RemoteFile("x", len(data), Digest("sha256", hashlib.sha256(data).hexdigest()))
    return RemoteFile("x", len(data), Digest("git-sha1", hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()))


def _sender(data: bytes, plan: list[tuple[int, bool]], *, block: int = 7) -> tuple[Request, list[int]]:
    """Sends `data`; each entry of `plan` is one answer: bytes until the connection breaks, and whether offsets are ignored."""
    asked: list[int] = []
    left = list(plan)

    @contextmanager
    def request(offset: int, stop: int) -> Iterator[Body]:
        asked.append(offset)
        limit, from_start = left.pop(0) if left else (len(data), False)
        start = 0 if from_start else offset

        def blocks() -> Iterator[bytes]:
            part = data[start : start + limit]
            for at in range(0, len(part), block):
                yield part[at : at + block]
            if start + limit < len(data):
                raise Interrupted("cut")

        yield Body(start, blocks())

    return request, asked


plans = st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=8)


@given(st.binary(max_size=200), plans, st.sampled_from(["sha256", "git-sha1"]))
def test_what_arrives_is_the_file_however_often_the_connection_breaks(
    data: bytes, plan: list[tuple[int, bool]], algorithm: str
) -> None:
    request, _ = _sender(data, plan)
    out, counts = io.BytesIO(), [0]
    sha256 = receive(_file(data, algorithm), request, out, where="x", progress=counts.append, pauses=[0.0] * 20)
    assert out.getvalue() == data
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert sum(counts) == len(data)
    assert all(count >= 0 for count in counts)


@given(st.binary(min_size=1, max_size=200), plans, st.data())
def test_one_flipped_bit_is_refused_naming_the_file_and_both_digests(
    data: bytes, plan: list[tuple[int, bool]], draw: st.DataObject
) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + bytes([data[at] ^ (1 << draw.draw(st.integers(0, 7)))]) + data[at + 1 :]
    request, _ = _sender(changed, plan)
    with pytest.raises(SourceError) as caught:
        receive(_file(data), request, io.BytesIO(), where="hf://o/m/x", progress=lambda n: None, pauses=[0.0] * 20)
    assert caught.value.where == "hf://o/m/x"
    assert hashlib.sha256(data).hexdigest() in caught.value.message
    assert hashlib.sha256(changed).hexdigest() in caught.value.message


def test_it_goes_on_where_it_stopped() -> None:
    data = bytes(range(100))
    request, asked = _sender(data, [(40, False), (0, False), (35, False)])
    receive(_file(data), request, io.BytesIO(), where="x", progress=lambda n: None, pauses=[0.0] * 3)
    assert asked == [0, 40, 40, 75]


def test_it_gives_up_after_attempts_without_progress_saying_how_far_it_came() -> None:
    data = bytes(100)
    request, asked = _sender(data, [(40, False)] + [(0, False)] * 10)
    with pytest.raises(SourceError, match="40 of 100 bytes arrived, last: cut"):
        receive(_file(data), request, io.BytesIO(), where="x", progress=lambda n: None, pauses=[0.0, 0.0])
    assert asked == [0, 40, 40]


def test_a_server_that_always_starts_anew_and_always_breaks_at_the_same_place_is_given_up() -> None:
    data = bytes(100)
    request, asked = _sender(data, [(40, True)] * 50)
    with pytest.raises(SourceError, match="40 of 100"):
        receive(_file(data), request, io.BytesIO(), where="x", progress=lambda n: None, pauses=[0.0, 0.0])
    assert len(asked) == 3


def test_more_bytes_than_published_are_refused() -> None:
    request, _ = _sender(bytes(101), [])
    with pytest.raises(SourceError, match="more than the 100 bytes"):
        receive(_file(bytes(100)), request, io.BytesIO(), where="x", progress=lambda n: None, pauses=[])


def test_an_error_of_the_disk_is_not_taken_for_a_broken_connection() -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    request, asked = _sender(bytes(100), [])
    with pytest.raises(OSError, match="No space left"):
        receive(_file(bytes(100)), request, FullDisk(), where="x", progress=lambda n: None, pauses=[0.0])
    assert asked == [0]
