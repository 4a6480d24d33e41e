"""CRCs that an object store keeps: of whole objects and of uploads in parts."""

from __future__ import annotations

import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.sources.transfer.checksums import WIDTH, Checksum, crc_of_kind

WITH_AWSCRT = pytest.mark.skipif(crc_of_kind("crc64nvme") is None, reason="awscrt is not installed")
COMPUTED = [kind for kind in WIDTH if crc_of_kind(kind) is not None]
CHECK = {"crc32": "cbf43926", "crc32c": "e3069283", "crc64nvme": "ae8b14860a799888"}
"""Of the nine bytes 123456789, as the catalogue of CRCs has them."""


@pytest.mark.parametrize("kind", ["crc32", *(pytest.param(k, marks=WITH_AWSCRT) for k in ("crc32c", "crc64nvme"))])
def test_the_well_known_value_comes_out(kind: str) -> None:
    checksum = Checksum(f"{kind}:{CHECK[kind]}")
    checksum.update(b"12345")
    assert not checksum.matches()
    checksum.update(memoryview(b"6789"))
    assert (checksum.value, checksum.matches()) == (CHECK[kind], True)


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=6), part=st.integers(1, 60))
def test_blocks_may_be_cut_anywhere(data: bytes, cuts: list[int], part: int) -> None:
    parts = [data[at : at + part] for at in range(0, len(data), part)]
    whole = zlib.crc32(b"".join(zlib.crc32(p).to_bytes(4, "big") for p in parts))
    checksum = Checksum(f"crc32:{whole:08x}-{len(parts)}/{part}")
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        checksum.update(data[start:stop])
    assert checksum.matches()


@given(
    data=st.binary(min_size=1, max_size=100),
    bit=st.integers(0, 799),
    kind=st.sampled_from(COMPUTED),
)
def test_one_flipped_bit_is_found(data: bytes, bit: int, kind: str) -> None:
    crc = crc_of_kind(kind)
    assert crc is not None
    checksum = Checksum(f"{kind}:{crc(memoryview(data), 0):0{2 * WIDTH[kind]}x}")
    bit %= 8 * len(data)
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    checksum.update(damaged)
    assert not checksum.matches()


@pytest.mark.parametrize(
    "text", ["", "crc32", "crc32:1", "crc16:abcd", "crc32:cbf43926-2", "crc32:cbf43926-2/0", "crc32:CBF43926"]
)
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no checksum"):
        Checksum(text)
