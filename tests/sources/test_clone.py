"""file:// folders on a file system that can share blocks between files (XFS on a loop device; needs root and mkfs.xfs)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources.download import download_checkpoint
from enginepress.sources.open import open_source
from tests.sources.fetching import fetch
from tests.sources.tiny import checkpoint, write

MB = 1_000_000


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """An XFS file system of 320 MB, the least that mkfs.xfs makes."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed")
    image, folder = tmp_path / "image", tmp_path / "xfs"
    folder.mkdir()
    with open(image, "wb") as stream:
        stream.truncate(320 * 1024 * 1024)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.root
def test_a_copy_shares_the_sources_blocks_and_is_still_verified_and_independent(xfs: Path) -> None:
    files = checkpoint(size=80 * MB)
    source = open_source(Source(uri=f"file://{write(xfs / 'm', files)}"), cache=None)
    revision = source.resolve()
    before = _free(xfs)
    (xfs / "output").mkdir()
    download_checkpoint(source, revision, xfs / "output", partial_store=xfs / "store", progress=lambda *_: None)
    assert before - _free(xfs) < 10 * MB
    with open(xfs / "m" / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(bytes([files["model.safetensors"][-1] ^ 1]))
    assert (xfs / "output" / "model.safetensors").read_bytes() == files["model.safetensors"]
    weights = next(f for f in revision.files if f.path == "model.safetensors")
    with pytest.raises(SourceError, match="changed after it was resolved"):
        fetch(source, revision, weights, xfs / "again", progress=lambda count: None)
    assert not (xfs / "again").exists()


@pytest.mark.root
def test_a_copy_to_another_file_system_moves_the_bytes(xfs: Path, tmp_path: Path) -> None:
    files = checkpoint()
    source = open_source(Source(uri=f"file://{write(tmp_path / 'm', files)}"), cache=None)
    (xfs / "output").mkdir()
    download_checkpoint(source, source.resolve(), xfs / "output", partial_store=xfs / "store", progress=lambda *_: None)
    assert (xfs / "output" / "model.safetensors").read_bytes() == files["model.safetensors"]
